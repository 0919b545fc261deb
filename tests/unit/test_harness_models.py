"""Rules: from a model's text to family, size, seed and step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downslope.errors import StudyError
from downslope.harness_defaults import default_rules
from downslope.harness_files import HarnessFile
from downslope.harness_models import compile_rules, disagreement, parse_size, place, slug
from downslope.study_checks import check_harness


def file_of(model: str, name: str = "results.json", parameters: int | None = None) -> HarnessFile:
    return HarnessFile(Path(name), name, model, model, parameters, {}, frozenset())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("70m", 70_000_000),
        ("1.4B", 1_400_000_000),
        ("1b7", 1_700_000_000),
        ("7b1", 7_100_000_000),
        ("0.5B", 500_000_000),
        ("350M", 350_000_000),
        ("143000", 143_000),
        ("0", 0),
        ("2T", 2_000_000_000_000),
        ("1.5", None),
        ("large", None),
        ("12b-deduped", None),
    ],
)
def test_sizes(text: str, count: int | None) -> None:
    assert parse_size(text) == count


@given(st.text(max_size=30))
def test_slugs_are_ids(text: str) -> None:
    import re

    made = slug(text)
    assert made == "" or re.fullmatch(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", made)
    assert slug(made) == made


# Model arguments of published studies and their forks, and what they say.
USUAL = [
    ("pretrained=EleutherAI/pythia-1.4b,revision=step128000",
     ("pythia", 1_400_000_000, 1234, 128000)),
    ("pretrained=EleutherAI/pythia-v1.1-6.9b-deduped,revision=step1000,use_accelerate=True",
     ("pythia-v1.1-deduped", 6_900_000_000, 1234, 1000)),
    ("pretrained=EleutherAI/pythia-v1.1-70m-1.25MtokBS,revision=step2",
     ("pythia-v1.1-1.25mtokbs", 70_000_000, 1234, 2)),
    ("pretrained=EleutherAI/pythia-160m-seed3,revision=step512", ("pythia", 160_000_000, 3, 512)),
    ("pretrained=EleutherAI/intervention-pythia-v1.1-1.4b-deduped-long,revision=step114000",
     ("intervention-pythia-v1.1-deduped-long", 1_400_000_000, 0, 114000)),
    ("pretrained=allenai/OLMo-1B-0724-hf,revision=step1000-tokens2B",
     ("olmo-0724-hf", 1_000_000_000, 0, 1000)),
    ("pretrained=bigscience/bloom-1b1-intermediate,revision=global_step1000",
     ("bloom-intermediate", 1_100_000_000, 0, 1000)),
    ("pretrained=/scratch/runs/gpt-125m/checkpoint-5000", ("gpt", 125_000_000, 0, 5000)),
    ("pretrained=out/llama-1.1B-cosine/iter_0002000", ("llama-cosine", 1_100_000_000, 0, 2000)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key"), USUAL)
def test_usual_names_need_no_pattern(text: str, key: tuple[Any, ...]) -> None:
    rules = compile_rules(default_rules([file_of(text)], {}, None), "rules")
    model = place(file_of(text), rules)
    assert model is not None
    assert model.key == key


def test_tokens_that_a_name_states() -> None:
    text = "pretrained=allenai/OLMo-1B-0724-hf,revision=stage1-step1000-tokens2B"
    model = place(file_of(text), compile_rules(default_rules([file_of(text)], {}, None), ""))
    assert model is not None
    assert model.tokens == 2_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        "pretrained=EleutherAI/pythia-70m,revision=main",
        "pretrained=facebook/opt-125m",
        "pretrained=meta-llama/Meta-Llama-3-8B,peft=runs/lora/epoch_3,revision=step5",
        "load=/fsx/pythia/staged_model,iteration=103000",
        "pretrained=models/mine,tokenizer=EleutherAI/gpt-neox-20b,revision=step5",
        "pretrained=stanford-crfm/alias-gpt2-small-x21,revision=checkpoint-100",
    ],
)
def test_what_names_no_size_or_step_is_not_guessed(text: str) -> None:
    rules = compile_rules(default_rules([file_of(text)], {}, None), "")
    assert place(file_of(text), rules) is None


def test_models_that_name_no_step() -> None:
    files = [
        file_of("pretrained=bigscience/bloom-1b7,use_accelerate=True"),
        file_of("pretrained=facebook/opt-125m,revision=main"),
        file_of("pretrained=facebook/opt-125m,peft=x,revision=main"),
        file_of("pretrained=EleutherAI/pythia-70m,revision=step5"),
        file_of("pretrained=EleutherAI/pythia-70m,revision=main"),
    ]
    rules = compile_rules(default_rules(files, {"opt": 1, "pythia": 143000}, 9), "")
    found = [model.key if (model := place(file, rules)) else None for file in files]
    assert found == [
        None,
        ("opt", 125_000_000, 9, 1),
        None,
        ("pythia", 70_000_000, 9, 5),
        ("pythia", 70_000_000, 9, 143000),
    ]


def test_the_first_rule_wins_and_constants_fill_in() -> None:
    rules = compile_rules(
        [
            {"pattern": r"gpt2-(?P<family>small)-x(?P<seed>\d+),revision=checkpoint-(?P<step>\d+)"},
            {
                "pattern": "gpt2",
                "family": "gpt2",
                "parameters": 124000000,
                "seed": 1,
                "step": 400000,
            },
        ],
        "",
    )
    first = place(
        file_of("pretrained=gpt2-small-x21,revision=checkpoint-100", "", 124439808), rules
    )
    assert first is not None
    assert first.key == ("small", 124439808, 21, 100), "the harness counted the parameters"
    second = place(file_of("pretrained=gpt2"), rules)
    assert second is not None
    assert second.key == ("gpt2", 124000000, 1, 400000)


def test_a_rule_can_read_the_path() -> None:
    """EleutherAI/pythia, evals/pythia-v0: the settings of eight models name one folder."""
    rule = {
        "pattern": r"^pythia-(?P<parameters>[^/]+)/(?P<family>zero)-shot/.*_step(?P<step>\d+)_",
        "in": "path",
        "seed": 1234,
    }
    rules = compile_rules([rule], "")
    file = file_of(
        "load=/fsx/staged_model,iteration=13000", "pythia-1.4b/zero-shot/p_step13000_x.json"
    )
    model = place(file, rules)
    assert model is not None
    assert model.key == ("zero", 1_400_000_000, 1234, 13000)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"pattern": "(?P<family>a"}, "is no regular expression"),
        ({"pattern": "(?P<family>a)(?P<stepp>b)", "seed": 0}, "has a group 'stepp'"),
        ({"pattern": r"(?P<family>a)(?P<step>\d)"}, "says nothing of the seed"),
        ({"pattern": r"(?P<step>\d)", "seed": 0}, "says nothing of the family"),
    ],
)
def test_rules_that_cannot_name_a_checkpoint(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said) as caught:
        compile_rules([rule], "config.yaml, harness.models")
    assert "config.yaml, harness.models, rule 1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pretrained=gpt-large,revision=step5", "reads 'large' as parameters"),
        ("pretrained=gpt,revision=step5", "finds no parameters"),
    ],
)
def test_texts_that_a_rule_cannot_finish(text: str, said: str) -> None:
    pattern = r"(?P<family>gpt)(?:-(?P<parameters>\w+))?,revision=step(?P<step>\d+)"
    with pytest.raises(StudyError, match=said) as caught:
        place(file_of(text, "where/it.json"), compile_rules([{"pattern": pattern, "seed": 0}], ""))
    assert str(caught.value).startswith("where/it.json: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pythia-1.4b_step4000.json", ""),
        ("results_2025-03-05T01-44-07.json", ""),
        ("EleutherAI__pythia-1.4b/results_x.json", ""),
        ("pythia-1.4b/five-shot/1.4b-5shot_step4000.json", ""),
        ("pythia-1.4b_step2000.json", "its name says step 2000, its content step 4000"),
        ("pythia-1.3b_step4000.json", "its name says 1.3b parameters, its content 1,400,000,000"),
        ("rwkv7-421M/step4000.json", "its name says 421M parameters, its content 1,400,000,000"),
    ],
)
def test_names_that_disagree_with_contents(name: str, said: str) -> None:
    text = "pretrained=EleutherAI/pythia-1.4b,revision=step4000"
    file = file_of(text, name)
    model = place(file, compile_rules(default_rules([file], {}, None), ""))
    assert model is not None
    assert disagreement(file, model) == said


def test_a_broken_pattern_is_found_when_the_study_is_read() -> None:
    config = {"cells": "harness", "harness": {"models": [{"pattern": "(?P<size>.*)"}]}}
    with pytest.raises(StudyError, match=r"harness\.models, rule 1: .* group 'size'"):
        check_harness(config, Path("config.yaml"))
    check_harness({"cells": "scores"}, Path("config.yaml"))
