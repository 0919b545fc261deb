"""Models from a local folder: only safetensors or plain tensors, never code, never a guess.

Weights go from the files to their place in the dtype they are wanted in, tensor by tensor: no
initial weights are drawn, no second copy is held. On a CPU, safetensors that have that dtype
already are not copied at all; the model computes with the mapped file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest.mock import patch

import torch
from safetensors import safe_open
from torch import nn

from downslope.errors import StudyError, UnusableFolder
from downslope.lean_imports import import_transformers
from downslope.placement import placed
from downslope.shortage import out_of_memory

_STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What safetensors call the dtypes."""


def load_model(folder: Path, *, dtype: str, device: str) -> Any:
    """A causal language model in evaluation mode on a `device`, "cpu" or "cuda".

    On "cuda" it goes to one GPU or, where it must, to several (see `placement`). Nothing is
    fetched, no code of the folder is run, and pickled weights are read with torch's
    `weights_only` reader. Raises StudyError where weights are missing or do not fit (the library
    would fill them with random numbers and only warn), and where GPUs are too few.
    """
    if device == "cpu":
        return read_model(folder, dtype=dtype, device_map=None)
    free = (torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count()))
    gpus = placed(empty_model(folder, dtype=dtype), free, where=str(folder))
    return read_model(folder, dtype=dtype, device_map=gpus)


def read_model(folder: Path, *, dtype: str, device_map: dict[str, Any] | None) -> Any:
    """The model in `folder` with its modules where `device_map` has them, None being the CPU.

    Raises as `load_model` does.
    """
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "device_map": device_map,
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": any(folder.glob("*.safetensors")),
        "weights_only": True,
        "output_loading_info": True,
        # What a config may ask for, and scoring could not read.
        "return_dict": True,
        "output_attentions": False,
    }
    transformers = _transformers()
    load = partial(transformers.AutoModelForCausalLM.from_pretrained, str(folder), **options)
    with _faults_of(folder), _frugal(options["dtype"]):
        try:
            model, info = load(attn_implementation="sdpa")
        except (ValueError, ImportError) as error:
            if "attention" not in str(error).lower():
                raise
            model, info = load(attn_implementation="eager")
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise UnusableFolder(
            f"lacks {len(lost)} weights that its config.json asks for, first {lost[0]}",
            where=str(folder),
            remedy="The checkpoint is incomplete or its config is another model's.",
        )
    return model.eval()


def empty_model(folder: Path, *, dtype: str) -> Any:
    """The model that config.json in `folder` describes: names, shapes and dtypes, no values."""
    transformers = _transformers()
    from transformers.initialization import no_init_weights

    with _faults_of(folder), _parameters_on_meta(), no_init_weights():
        config = transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.tie_weights()
    return model


def longest_sequence(model: Any) -> int | None:
    """How many positions a model has, or None where its config sets no limit.

    Where a longer sequence changes the positions of all its tokens (`longrope`, `dynamic`), it is
    what comes before that: scores would depend on what a request shares a batch with.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_layer_type = [some for some in rope.values() if isinstance(some, dict)]
    changing = [
        some
        for some in (rope, *by_layer_type)
        if some.get("rope_type", some.get("type")) in ("longrope", "dynamic")
    ]
    if changing:
        stated = (*changing, vars(config))
        original = [some.get("original_max_position_embeddings") for some in stated]
        if known := [value for value in original if isinstance(value, int)]:
            return min(known)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def vocabulary(model: Any) -> int | None:
    """How many tokens a model knows, or None where its config does not say."""
    size = getattr(model.config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def _transformers() -> Any:
    """The library, silenced: what it warns about is looked at here or does not concern scoring,
    and its progress bars write carriage returns into log files."""
    import_transformers()
    import transformers
    from transformers.utils import logging as noise

    noise.disable_progress_bar()
    noise.set_verbosity_error()
    return transformers


@contextmanager
def _faults_of(folder: Path) -> Iterator[None]:
    """What fails inside is for the user to mend."""
    try:
        yield
    except UnpicklingError:
        raise UnusableFolder(
            "holds pickled weights with more than plain tensors in them, which could run code",
            where=str(folder),
            remedy="Get the checkpoint as safetensors, or convert it where you trust its source.",
        ) from None
    except Exception as error:  # of any kind: the library raises what its parts do
        if isinstance(error, (StudyError, MemoryError)) or out_of_memory(error) or _of_gpu(error):
            raise
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the model
            raise StudyError(
                f"cannot be read ({error.strerror})",
                where=str(error.filename or folder),
                remedy="Try again, or look at the disk that it lies on.",
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        if isinstance(error, ImportError):  # the environment may change, with the same files
            raise StudyError(
                f"asks for a library that is not here ({first})",
                where=str(folder),
                remedy="Add it to envs/score.yaml, or leave the checkpoint out (known_bad).",
            ) from error
        raise UnusableFolder(
            f"cannot be loaded as a causal language model ({first})",
            where=str(folder),
            remedy="It needs config.json of a model type that transformers knows, and weights as "
            "*.safetensors or pytorch_model*.bin.",
        ) from error


def _of_gpu(error: Exception) -> bool:
    """Whether a device or its driver failed, and may do better next time."""
    return isinstance(error, RuntimeError) and any(
        maker in str(error) for maker in ("CUDA", "cuBLAS", "HIP")
    )


@contextmanager
def _frugal(dtype: torch.dtype) -> Iterator[None]:
    """Inside, `from_pretrained` does without work and memory that it has no need of.

    Only the parameters of the empty model go to the meta device, and initial values are not
    drawn. Transformers would build everything there, which imports torch's compiler and sympy.
    """
    with ExitStack() as stack:
        try:
            from transformers import PreTrainedModel, modeling_utils
            from transformers.initialization import no_init_weights

            ordinary: Callable[..., list[Any]] = PreTrainedModel.get_init_context.__func__

            def contexts(cls: type, *args: Any, **kwargs: Any) -> list[Any]:
                found, meta = ordinary(cls, *args, **kwargs), torch.device("meta")
                if meta not in found:  # it has another way of building, and its reasons
                    return found
                kept = [context for context in found if context != meta]
                return [*kept, no_init_weights(), _parameters_on_meta()]

            stack.enter_context(
                patch.object(PreTrainedModel, "get_init_context", classmethod(contexts))
            )
            stack.enter_context(patch.object(modeling_utils, "safe_open", _opener(dtype)))
        except (ImportError, AttributeError) as error:
            logging.getLogger("downslope").debug("models are built the ordinary way: %r", error)
        yield


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters of modules that are made inside have a shape and a dtype, but no memory."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None:
            value = nn.Parameter(value.detach().to("meta"), requires_grad=value.requires_grad)
        register(module, name, value)

    with patch.object(nn.Module, "register_parameter", on_meta):
        yield


def _opener(dtype: torch.dtype) -> Callable[..., Any]:
    """`safe_open` that reads files of another dtype instead of mapping them: what has been
    converted would stay resident until the file is closed."""

    def opened(path: str, framework: str, device: str = "cpu", backend: str = "mmap") -> Any:
        file = safe_open(path, framework=framework, device=device, backend=backend)
        stored = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if backend == "mmap" and _STORED.get(dtype) not in stored:
            return safe_open(path, framework=framework, device=device, backend="pread")
        return file

    return opened
