"""Loading a model: what it costs, where its weights go, and that nothing of it shows in numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from downslope import models, placement
from downslope.engine import Scorer
from downslope.errors import StudyError, UnusableFolder
from downslope.models import empty_model, load_model, longest_sequence, read_model, vocabulary
from downslope.packing import pack_requests
from downslope.placement import WORKING_BYTES, placed
from downslope.protocols import Request
from downslope.self_check import choose_path
from tiny_study import ROOT, make_model

NEVER_USED = [
    *("scipy", "sklearn", "sympy", "torch._dynamo", "torch._inductor"),
    *("torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.checkpoint"),
]
TOKENS = [[5, 6, 7, 5, 9, 1, 2]]
SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neox": SHAPE,
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_id": 0},
    "opt": SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "llama": SHAPE | {"intermediate_size": 64},
    "olmo2": SHAPE | {"intermediate_size": 64, "pad_token_id": 1, "eos_token_id": 2},
    "qwen2": SHAPE | {"intermediate_size": 64, "num_key_value_heads": 1},
    "gemma": SHAPE | {"intermediate_size": 64, "head_dim": 16, "num_key_value_heads": 1},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}

BEGIN = f"""
import json, logging, sys
from pathlib import Path
from types import SimpleNamespace
logging.basicConfig(level=logging.DEBUG, filename=sys.argv[2])
sys.path.insert(0, {str(ROOT / "scripts")!r})
import numpy as np, torch
from downslope.models import load_model
torch.set_num_threads(1)
folder = Path(sys.argv[1])
"""
ALL, ONE = (f"FAMILIES = {names!r}\n" for names in (list(FAMILIES), ["gpt_neox"]))
LOGITS = f"""
found = {{}}
for name in FAMILIES:
    model = load_model(folder / name, dtype="float32", device="cpu")
    model.loss_function
    with torch.inference_mode():
        found[name] = model(input_ids=torch.tensor({TOKENS!r}), use_cache=False).logits.numpy()
np.savez(folder / "logits.npz", **found)
print(json.dumps([name for name in {NEVER_USED!r} if name in sys.modules]))
"""
USED_AFTERWARDS = """
from scipy.optimize import linear_sum_assignment
assert linear_sum_assignment([[1, 0], [0, 1]])[1].tolist() == [1, 0]
assert torch.compile(lambda x: 2 * x + 1, backend="eager")(torch.tensor(3)) == 7
import torch._dynamo
inner = torch._dynamo._trace_wrapped_higher_order_op
import transformers.masking_utils
mode = transformers.masking_utils.TransformGetItemToIndex()
assert isinstance(mode, inner.TransformGetItemToIndex)
from torch.distributed.tensor import DTensor
from transformers.models import GPTNeoXForCausalLM
model = load_model(folder / "gpt_neox", dtype="float32", device="cpu")
assert isinstance(model, GPTNeoXForCausalLM)
"""
FAIL_ONCE = """
class Once:
    def find_spec(self, name, *_):
        if name == "transformers.generation.utils":
            sys.meta_path.remove(self)
            raise RuntimeError("not this time")
sys.meta_path.insert(0, Once())
"""
PEAK = """
def status(key):
    text = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in text.splitlines() if key in line)
load_model(folder / "small", dtype="bfloat16", device="cpu")
before = status("VmRSS")
model = load_model(folder, dtype="bfloat16", device="cpu")
print(json.dumps(status("VmHWM") - before - sum(p.nbytes for p in model.parameters())))
"""


def run(*parts: str, folder: Path) -> tuple[Any, str]:
    """What a process of its own prints last, as JSON, and its log; it must not write errors."""
    log = folder / "log"
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + "".join(parts), str(folder), str(log)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout.splitlines()[-1]), log.read_text()


def save(folder: Path, kind: str, **shape: Any) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, bos_token_id=0, initializer_range=0.3, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model of each family."""
    folder = tmp_path_factory.mktemp("zoo")
    for kind, shape in FAMILIES.items():
        save(folder / kind, kind, **shape)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def stored(tiny: Path) -> dict[str, torch.Tensor]:
    """The tiny model's weights by the names that its class has for them."""
    weights = load_file(tiny / "model.safetensors")
    return {name.replace("embed_out", "lm_head"): value for name, value in weights.items()}


def require_ordinary_logits(zoo: Path) -> None:
    """Logits that a process left are those of the models as transformers alone loads them."""
    from transformers import AutoModelForCausalLM

    found = np.load(zoo / "logits.npz")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for kind in found:
            model = AutoModelForCausalLM.from_pretrained(zoo / kind).eval()
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor(TOKENS), use_cache=False).logits.numpy()
            assert np.ptp(logits) > 0
            assert np.array_equal(found[kind], logits), kind
    finally:
        torch.set_num_threads(threads)
    (zoo / "logits.npz").unlink()


def test_what_scoring_never_uses_is_not_imported_but_can_be(zoo: Path) -> None:
    imported, log = run(ALL, LOGITS, USED_AFTERWARDS, folder=zoo)
    assert imported == []
    assert "in full" not in log
    require_ordinary_logits(zoo)


def test_where_the_lean_import_fails_the_ordinary_one_takes_its_place(zoo: Path) -> None:
    imported, log = run(ONE, FAIL_ONCE, LOGITS, folder=zoo)
    assert "torch.distributed.tensor" in imported
    assert "imported in full: RuntimeError('not this time')" in log
    require_ordinary_logits(zoo)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_weights_are_never_held_in_two_dtypes(tmp_path: Path) -> None:
    shape = {"vocab_size": 64, "num_attention_heads": 2}
    save(
        tmp_path, "gpt_neox", hidden_size=512, intermediate_size=2048, num_hidden_layers=10, **shape
    )
    save(tmp_path / "small", "gpt_neox", **SHAPE)
    above, _ = run(PEAK, folder=tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size > 120e6
    assert above < 40e6


def test_another_dtype_is_torchs_own_conversion(
    tiny: Path, stored: dict[str, torch.Tensor]
) -> None:
    model = load_model(tiny, dtype="bfloat16", device="cpu")
    assert set(stored) == set(dict(model.named_parameters()))
    for name, value in model.named_parameters():
        assert torch.equal(value, stored[name].to(torch.bfloat16)), name


# Weights of the tiny model in bytes, by hand: 257 x 16 floats in and out, and in each of 2 layers
# matrices of 16 x (48 + 16 + 64 + 64), their biases, two norms.
EMBEDDING = 257 * 16 * 4
LAYER = 4 * (16 * (48 + 16 + 64 + 64) + (48 + 16 + 64 + 16) + 2 * 32)
REST = 4 * 32 + 8  # the last norm, and the frequencies of the positions


@pytest.fixture
def empty(tiny: Path) -> Any:
    return empty_model(tiny, dtype="float32")


def test_an_empty_model_has_names_and_sizes_only(
    empty: Any, stored: dict[str, torch.Tensor]
) -> None:
    shapes = {name: (value.shape, value.dtype) for name, value in empty.named_parameters()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in stored.items()}
    assert {value.device.type for value in empty.parameters()} == {"meta"}
    assert sum(v.nbytes for v in stored.values()) + 8 == 2 * EMBEDDING + 2 * LAYER + REST


def test_a_model_goes_to_the_first_gpu_that_holds_it(empty: Any) -> None:
    enough = 2 * EMBEDDING + 2 * LAYER + REST + WORKING_BYTES

    def free() -> Iterator[int]:
        yield enough - 1
        yield enough
        raise AssertionError("asked for more than was needed")

    assert placed(empty, free(), where="here") == {"": 1}


def test_a_model_larger_than_a_gpu_is_dealt_out_in_layers(empty: Any) -> None:
    first, second = EMBEDDING + LAYER, LAYER + REST + EMBEDDING
    found = placed(empty, [WORKING_BYTES + first, WORKING_BYTES + second], where="here")
    parts = ["embed_in", "emb_dropout", "layers.0", "layers.1", "final_layer_norm", "rotary_emb"]
    names = [*(f"gpt_neox.{part}" for part in parts), "lm_head"]
    assert found == dict(zip(names, [0, 0, 0, 1, 1, 1, 1], strict=True))
    torn = [WORKING_BYTES + first + LAYER - 8, WORKING_BYTES + second - LAYER]
    with pytest.raises(StudyError):
        placed(empty, torn, where="here")


def test_tied_weights_stay_together(zoo: Path) -> None:
    model = empty_model(zoo / "gpt2", dtype="float16")
    assert model.lm_head.weight is model.transformer.wte.weight
    weights = sum(value.nbytes for value in load_file(zoo / "gpt2/model.safetensors").values()) // 2
    found = placed(model, [WORKING_BYTES + int(0.75 * weights)] * 2, where="here")
    assert found["lm_head"] == found["transformer.wte"]
    assert set(found.values()) == {0, 1}


def test_too_few_gpus_are_refused_with_the_number_that_would_do(empty: Any) -> None:
    # A layer less than the embedding fits on each, so one is left: 3, though 2 have the bytes.
    room = LAYER + REST + EMBEDDING - 4
    assert 2 * room >= 2 * EMBEDDING + 2 * LAYER + REST
    with pytest.raises(StudyError, match=r"here: has 5\.93e-05 GB of weights in float32") as caught:
        placed(empty, [WORKING_BYTES + room] * 2, where="here")
    assert "2 GPUs with at most 2.97e-05 GB" in str(caught.value)
    assert "it needs 3 such GPUs" in str(caught.value)
    assert set(placed(empty, [WORKING_BYTES + room] * 3, where="here").values()) == {0, 1, 2}
    with pytest.raises(StudyError, match="even single layers need larger ones"):
        placed(empty, [WORKING_BYTES + EMBEDDING - 1] * 8, where="here")
    with pytest.raises(StudyError, match="even single layers need larger ones"):
        placed(empty, [WORKING_BYTES // 2], where="here")


def test_gpus_are_asked_for_what_is_free(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (gpu * 2 * WORKING_BYTES, 0))
    monkeypatch.setattr(models, "read_model", lambda folder, **asked: asked)
    asked = load_model(tiny, dtype="float32", device="cuda")
    assert asked == {"dtype": "float32", "device_map": {"": 1}}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (1000, 1000))
    with pytest.raises(StudyError, match="2 GPUs"):
        load_model(tiny, dtype="float32", device="cuda")


def test_a_model_on_two_devices_gives_the_same_logits(
    empty: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two names of the CPU stand for two GPUs; of those, accelerate would see that weights are
    # where they belong, while a tensor forgets the number of its CPU.
    monkeypatch.setattr(
        "accelerate.utils.modeling.check_device_same", lambda one, two: one.type == two.type
    )
    monkeypatch.setattr(placement, "WORKING_BYTES", 0)
    gpus = placed(empty, [EMBEDDING + LAYER + REST] * 2, where="here")
    assert gpus["gpt_neox.layers.0"] == 0
    assert gpus["gpt_neox.layers.1"] == 1
    names = {module: f"cpu:{gpu}" for module, gpu in gpus.items()}
    spread = read_model(tiny, dtype="float32", device_map=names)
    whole = read_model(tiny, dtype="float32", device_map=None)
    moved = [spread.get_submodule(name)._hf_hook.execution_device for name in names]
    assert set(moved) == {"cpu:0", "cpu:1"}
    with torch.inference_mode():
        one, two = (m(input_ids=torch.tensor(TOKENS)).logits for m in (spread, whole))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("given", "positions"),
    [
        ({"max_position_embeddings": 128}, 128),
        (
            {
                "max_position_embeddings": 128,
                "original_max_position_embeddings": 32,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0] * 4,
                },
            },
            32,
        ),
    ],
)
def test_positions_that_do_not_depend_on_the_company(given: dict, positions: int) -> None:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Phi3Config(**shape, pad_token_id=0, **given)
    assert longest_sequence(SimpleNamespace(config=config)) == positions


def test_positions_and_tokens_of_a_model_whose_language_is_a_part_of_it() -> None:
    import transformers

    text = {"max_position_embeddings": 64, "vocab_size": 50, "hidden_size": 32}
    model = SimpleNamespace(config=transformers.Gemma3Config(text_config=text))
    assert longest_sequence(model) == 64
    assert vocabulary(model) == 50


def test_positions_by_layer_type() -> None:
    import transformers

    grows = {"rope_type": "longrope", "original_max_position_embeddings": 128, "rope_theta": 1e4}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    ropes = {
        "full_attention": grows | factors,
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = transformers.Gemma3TextConfig(
        hidden_size=32, head_dim=8, max_position_embeddings=512, rope_parameters=ropes
    )
    assert longest_sequence(SimpleNamespace(config=config)) == 128


@pytest.mark.parametrize("asked", [{"output_attentions": True}, {"return_dict": False}])
def test_a_config_that_asks_for_more_or_other_output_is_scored_all_the_same(
    tiny: Path, tmp_path: Path, asked: dict[str, bool]
) -> None:
    copy = with_config(tiny, tmp_path, **asked)
    scorer = Scorer(read_model(copy, dtype="float32", device_map=None))
    packs, _ = pack_requests([Request((5, 6, 7, 5, 9, 1, 2), 2), Request((5, 6, 8), 1)], 50)
    choose_path(scorer, packs)
    assert scorer.path == "packed"


@pytest.mark.parametrize(
    "broken", [{"hidden_size": "32"}, {"num_attention_heads": 0}, {"rope_parameters": 5}]
)
def test_a_broken_config_is_named_whatever_the_library_raises(
    tiny: Path, tmp_path: Path, broken: dict[str, Any]
) -> None:
    copy = with_config(tiny, tmp_path, **broken)
    with pytest.raises(UnusableFolder, match=f"{copy}: cannot be loaded as a causal language mod"):
        read_model(copy, dtype="float32", device_map=None)


def test_a_library_that_is_missing_is_no_fault_of_the_folder(tiny: Path, tmp_path: Path) -> None:
    copy = with_config(tiny, tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(StudyError, match="asks for a library that is not here") as raised:
        read_model(copy, dtype="float32", device_map=None)
    assert not isinstance(raised.value, UnusableFolder)


def with_config(folder: Path, place: Path, **fields: Any) -> Path:
    """A copy of a model's folder whose config.json says something else."""
    copy = Path(shutil.copytree(folder, place / "model"))
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | fields))
    return copy


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (
            OSError(116, "Stale file handle", "x.bin"),
            StudyError,
            r"x\.bin: cannot be read",
        ),
        (RuntimeError("CUDA out of memory"), RuntimeError, "^CUDA out of memory$"),
        (RuntimeError("can't allocate memory: 9 bytes"), RuntimeError, "^can't allocate memory"),
        (RuntimeError("CUDA error: uncorrectable ECC error"), RuntimeError, "^CUDA error"),
        (MemoryError("no more"), MemoryError, "^no more$"),
        (OSError("no file named x"), StudyError, "cannot be loaded as a causal language model"),
    ],
)
def test_a_full_memory_or_a_failing_disk_is_not_called_a_bad_model(
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    words: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    import transformers

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(raised, match=words):
        read_model(tiny, dtype="float32", device_map=None)
