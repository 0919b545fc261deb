"""Reading one file of results: both generations, the forks, and what is no file of results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from downslope.errors import StudyError
from downslope.harness_files import (
    HarnessFile,
    input_files,
    list_files,
    read_file,
    read_folder,
)
from harness_folders import DATE, new, old, write, write_samples


def read(path: Path) -> HarnessFile:
    file = read_file(path, path.parent)
    assert file is not None
    return file


def test_a_file_of_0_3(tmp_path: Path) -> None:
    """The form of jmichaelov/emergent-inabilities, results/pythia-1.4b_step128000.json."""
    results = {
        "isp_neqa": {"acc": 0.25, "acc_stderr": 0.02, "acc_norm": 0.5, "acc_norm_stderr": 0.03},
        "truthfulqa_mc": {"mc1": 0.2, "mc1_stderr": 0.01, "mc2": 0.4, "mc2_stderr": 0.02},
        "lambada_openai": {"ppl": 26.02, "ppl_stderr": 0.94, "acc": 0.379, "acc_stderr": 0.0067},
        "wikitext": {"word_perplexity": 37.4, "byte_perplexity": 1.96, "bits_per_byte": 0.97},
    }
    arguments = "pretrained=EleutherAI/pythia-1.4b,revision=step128000"
    file = read(old(tmp_path / "pythia-1.4b_step128000.json", arguments, results, version=1))
    assert file.model == file.shown == arguments
    assert file.entries["isp_neqa"].values == {"acc": (0.25, 0.02), "acc_norm": (0.5, 0.03)}
    assert file.entries["truthfulqa_mc"].values == {"mc1": (0.2, 0.01), "mc2": (0.4, 0.02)}
    assert file.entries["lambada_openai"].values["ppl"] == (26.02, 0.94)
    value, error = file.entries["wikitext"].values["word_perplexity"]
    assert value == 37.4
    assert math.isnan(error), "0.3 gives no error of it"
    entry = file.entries["isp_neqa"]
    assert (entry.n, entry.shots, entry.version, entry.limit) == (None, 0, "1", "")
    assert file.parameters is None


def test_a_file_of_0_4(tmp_path: Path) -> None:
    results = {
        "arc_easy": {"acc": 0.5, "acc_stderr": 0.01, "name": "arc_easy", "sample_len": 2376},
        "gsm8k": {
            "exact_match,strict-match": 0.1,
            "exact_match_stderr,strict-match": 0.02,
            "exact_match,flexible-extract": 0.2,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "mmlu": {"acc": 0.3, "acc_stderr": 0.01},
        "mmlu_stem": {"acc": 0.2, "acc_stderr": float("nan")},
        "only_a_name": {"alias": "only_a_name", " ": " "},
    }
    path = new(
        tmp_path / "EleutherAI__pythia-160m",
        {"pretrained": "EleutherAI/pythia-160m", "dtype": "float32"},
        results,
        shots=5,
        n=40,
        groups={"mmlu": ["mmlu_stem"]},
        config={"model_num_parameters": 162322944, "model_revision": "step1000", "limit": 10.0},
        higher_is_better={"arc_easy": {"acc": True}, "gsm8k": {"exact_match": None}},
    )
    file = read(path)
    assert file.model == "pretrained=EleutherAI/pythia-160m,revision=step1000,dtype=float32"
    assert file.shown == "pretrained=EleutherAI/pythia-160m,revision=step1000"
    assert file.parameters == 162322944
    assert file.groups == {"mmlu"}
    assert file.entries["arc_easy"].values == {"acc": (0.5, 0.01)}
    assert set(file.entries["gsm8k"].values) == {
        "exact_match,strict-match",
        "exact_match,flexible-extract",
    }
    assert math.isnan(file.entries["gsm8k"].values["exact_match,flexible-extract"][1])
    assert math.isnan(file.entries["mmlu_stem"].values["acc"][1])
    assert file.entries["only_a_name"].values == {}
    entry = file.entries["arc_easy"]
    assert (entry.n, entry.shots, entry.version, entry.limit) == (40, 5, "1", "10")
    assert entry.higher == {"acc": True}
    assert file.entries["gsm8k"].higher == {}


def test_gpt_neox_settings_in_place_of_arguments(tmp_path: Path) -> None:
    """EleutherAI/pythia, evals/pythia-v0: model_args is a mapping of hundreds of settings."""
    settings = {
        "distributed_backend": "nccl",
        "iteration": 67000,
        "prompt_end": "\n",
        "eval_results_prefix": "../bias-evals/pythia-1.3b-deduped-step67000",
        "load": "/ckpts/1.3B_dedup",
        "attention_config": ["global", "global"],
        "optimizer": {"type": "Adam"},
        "deepscale_config": None,
    }
    file = read(old(tmp_path / "x.json", settings, {"piqa": {"acc": 0.5, "acc_stderr": 0.01}}))
    assert file.shown == "load=/ckpts/1.3B_dedup,iteration=67000"
    assert file.model.startswith(file.shown)
    assert "eval_results_prefix=../bias-evals/pythia-1.3b-deduped-step67000" in file.model
    assert "\n" not in file.model


def test_bigsciences_fork(tmp_path: Path) -> None:
    """EleutherAI/pythia, evals/bias-evals/winobias: a list of results, and a table beside it."""
    row = {"task_name": "wino_bias", "prompt_name": "refers_to", "em": 0.38, "em_stderr": 0.02}
    name = "wino_bias+refers_to"
    listed = read(old(tmp_path / "a.json", "pretrained=x", [row], table_results={name: row}))
    bare = write(
        tmp_path / "b.json", {"table_results": {name: row}, "model_args": {"iteration": 7}}
    )
    assert listed.entries[name].values == read(bare).entries[name].values == {"em": (0.38, 0.02)}
    assert read(bare).model == "iteration=7"


def test_a_script_of_the_users_own(tmp_path: Path) -> None:
    """Seen with RWKV: model, tasks, num_fewshot and results; the folder names another model."""
    rows = {"glue": {"acc,none": 0.4, "acc_stderr,none": 0.01}}
    model = "/workspace/RWKV-x070-Pile-421M-20241127-ctx4096"
    content = {"model": model, "tasks": ["glue"], "num_fewshot": "0", "results": rows}
    file = read(write(tmp_path / "rwkv7-1.47B" / "results_2025.json", content))
    assert file.model == model
    assert file.entries["glue"].values == {"acc": (0.4, 0.01)}
    assert file.entries["glue"].shots == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "revision=step5,dtype=float16,pretrained=a/b",
            "pretrained=a/b,revision=step5,dtype=float16",
        ),
        ("pretrained=a/b,max_memory={0:1,1:2}", "pretrained=a/b,max_memory={0:1,1:2}"),
        ("", "the/name"),
        (None, "the/name"),
    ],
)
def test_a_models_text_begins_with_what_tells_it(
    tmp_path: Path, arguments: str | None, expected: str
) -> None:
    config = {"model_args": arguments}
    content = {"results": {"t": {"acc,none": 1.0}}, "config": config, "model_name": "the/name"}
    assert read(write(tmp_path / "results_x.json", content)).model == expected
    del content["model_name"]
    nameless = read(write(tmp_path / "results_x.json", content)).model
    assert nameless == (expected if arguments else "results_x.json")


def test_samples_are_found_by_date(tmp_path: Path) -> None:
    folder = tmp_path / "EleutherAI__pythia-70m"
    file = read(new(folder, "pretrained=a", {"arc_easy": {"acc": 0.5}}))
    assert file.samples("arc_easy") is None
    write_samples(folder, "arc_easy", [], date="2023-01-01T00-00-00.000000")
    assert file.samples("arc_easy") is None
    own = write_samples(folder, "arc_easy", [])
    assert file.samples("arc_easy") == own
    assert own.name.endswith(f"_{DATE}.jsonl")


def test_a_folder_of_many_things(tmp_path: Path) -> None:
    """Folders called x.json come from --output_path x.json; other programs' JSON lies about."""
    new(tmp_path / "out.json" / "model", "pretrained=a", {"t": {"acc": 0.5}})
    old(tmp_path / "b.json", "pretrained=b", {"t": {"acc": 0.5}})
    strange = [
        write(tmp_path / "config.json", {"model_type": "gpt_neox", "hidden_size": 512}),
        write(tmp_path / "list.json", [1, 2]),
        write(tmp_path / "bare.json", {"lambada_openai": {"perplexity,none": 4.8}}),
        write(tmp_path / "helm.json", {"results": {"t": {"acc": 1}}, "adapter_spec": {}}),
    ]
    files, others = read_folder(tmp_path, "**/*.json")
    assert [file.name for file in files] == ["b.json", f"out.json/model/results_{DATE}.json"]
    assert sorted(others) == sorted(strange)
    assert [path.name for path in list_files(tmp_path, "b*.json")] == ["b.json", "bare.json"]


def test_an_import_hangs_on_results_and_samples(tmp_path: Path) -> None:
    results = [new(tmp_path / "m", "pretrained=a", {"t": {"acc": 0.5}})]
    samples = [write_samples(tmp_path / "m", "t", [])]
    assert input_files(tmp_path) == [str(path) for path in results + samples]
    assert input_files(tmp_path / "nowhere") == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = old(tmp_path / "cut.json", "pretrained=b", {"t": {"acc": 0.5}})
    path.write_text(path.read_text()[:-30])
    with pytest.raises(StudyError, match=r"cut\.json: is not JSON"):
        read_folder(tmp_path, "**/*.json")
    with pytest.raises(StudyError, match="is no folder"):
        read_folder(tmp_path / "nowhere", "**/*.json")
    path.write_text(json.dumps({"other": 1}))
    with pytest.raises(StudyError, match=r"holds results .*\(1 other JSON files\)"):
        read_folder(tmp_path, "**/*.json")
