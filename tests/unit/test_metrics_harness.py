"""Metrics against independent systems: lm-evaluation-harness 0.4.13 itself, and torch.

The harness's own code decides the same random answers; values agree item by item. The prize's
pipeline takes torch's cross entropy over the classes as its loss and logsumexp as the mass.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd
import pytest

from downslope.cells import cells_of, values_of
from downslope.layout import answers_of
from downslope.metrics import METRICS

WHY = "compares with lm-evaluation-harness, a requirement of the tests only"
pytest.importorskip("lm_eval", reason=WHY)

PROTOCOL = "michaelov2023"
CHECKPOINT = dict.fromkeys(("family", "ckpt"), "x") | dict.fromkeys(
    ("parameters", "step", "tokens", "seed"), 1
)
SYLLABLES = ["no", "yes", "blåbær", "the sun", "42", "人", "ever", "-"]


@pytest.fixture(scope="module")
def docs() -> list[dict[str, Any]]:
    """Questions in the harness's format of TruthfulQA, with a random log-likelihood per choice.

    Log-likelihoods are those of float32, as scores are stored; every third item has a tie.
    """
    rng = random.Random(20230524)
    made = []
    for number in range(200):
        count = rng.randint(2, 9)
        texts: list[str] = []
        while len(texts) < count:
            text = " ".join(rng.choices(SYLLABLES, k=rng.randint(1, 6)))
            if text not in texts:
                texts.append(text)
        true = rng.randint(1, count - 1)
        order = [0, *rng.sample(range(true, count), rng.randint(1, count - true))]
        scores = [float(np.float32(rng.gauss(-30, 12))) for _ in texts]
        if number % 3 == 0:
            scores[rng.randrange(count)] = max(scores)
        made.append(
            {
                "question": f"Question {number}?",
                "mc1_targets": {"choices": [texts[i] for i in order]},
                "mc2_targets": {
                    "choices": texts,
                    "labels": [1] * true + [0] * (count - true),
                },
                "gold": rng.randrange(count),
                "scores": dict(zip(texts, scores, strict=True)),
            }
        )
    return made


def harness(docs: list[dict[str, Any]], choices: str, target: Any) -> list[dict[str, float]]:
    """What the harness's multiple-choice task makes of each item; keys acc and acc_norm."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    def offline(**_: Any) -> Any:
        plain = [{key: doc[key] for key in doc if key != "scores"} for doc in docs]
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(plain)})

    task = ConfigurableTask(
        config={
            "task": "downslope-check",
            "custom_dataset": offline,
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_choice": choices,
            "doc_to_target": target,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    )
    asked = zip(task.test_docs(), docs, strict=True)
    return [
        task.process_results(doc, [(told["scores"][c], False) for c in task.doc_to_choice(doc)])
        for doc, told in asked
    ]


def tables(docs: list[dict[str, Any]], right: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same items and log-likelihoods as Downslope's tables: scores and items."""
    items, scores = [], []
    for number, doc in enumerate(docs):
        texts = doc["mc2_targets"]["choices"]
        labels = doc["mc2_targets"]["labels"]
        items.append(
            {
                "item": f"item{number}",
                "choices": texts,
                "right": [doc["gold"]] if right == "gold" else np.flatnonzero(labels).tolist(),
                "mc1": [texts.index(text) for text in doc["mc1_targets"]["choices"]],
                "classes": "",
            }
        )
        for choice, text in enumerate(texts):
            score = np.float32(doc["scores"][text])
            scores.append((f"item{number}", PROTOCOL, choice, score, len(text)))
    columns = ["item", "protocol", "choice", "loglikelihood", "characters"]
    return pd.DataFrame(scores, columns=columns), pd.DataFrame(items)


def ours(docs: list[dict[str, Any]], metric: str, right: str = "labels") -> np.ndarray:
    scores, items = tables(docs, right)
    return METRICS[metric](answers_of(scores, items, "x", "t", [PROTOCOL])[PROTOCOL])


@pytest.mark.parametrize(("metric", "theirs"), [("accuracy", "acc"), ("acc_norm", "acc_norm")])
def test_accuracies_with_one_right_choice(
    docs: list[dict[str, Any]], metric: str, theirs: str
) -> None:
    reference = [found[theirs] for found in harness(docs, "{{mc2_targets.choices}}", "gold")]
    assert 20 < sum(reference) < 180  # both outcomes occur
    np.testing.assert_array_equal(ours(docs, metric, "gold"), reference)


@pytest.mark.parametrize(("metric", "theirs"), [("accuracy", "acc"), ("acc_norm", "acc_norm")])
def test_accuracies_with_several_right_choices(
    docs: list[dict[str, Any]], metric: str, theirs: str
) -> None:
    target = "{{range(mc2_targets.labels | sum) | list}}"
    reference = [found[theirs] for found in harness(docs, "{{mc2_targets.choices}}", target)]
    assert 20 < sum(reference) < 180
    np.testing.assert_array_equal(ours(docs, metric), reference)


def test_mc1(docs: list[dict[str, Any]]) -> None:
    reference = [found["acc"] for found in harness(docs, "{{mc1_targets.choices}}", 0)]
    assert 20 < sum(reference) < 180
    np.testing.assert_array_equal(ours(docs, "mc1"), reference)


def mc2_of_the_harness(docs: list[dict[str, Any]]) -> list[float]:
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    return [
        float(process_results_mc2(doc, [(doc["scores"][c], False) for c in doc["scores"]])["acc"])
        for doc in docs
    ]


def test_mc2(docs: list[dict[str, Any]]) -> None:
    np.testing.assert_allclose(ours(docs, "mc2"), mc2_of_the_harness(docs), rtol=1e-12)


def test_the_cell_of_a_task_and_its_standard_error(docs: list[dict[str, Any]]) -> None:
    from lm_eval.api.metrics import mean, mean_stderr

    scores, items = tables(docs, "labels")
    values = values_of(scores, items, "any", "truthfulqa", [PROTOCOL])
    cells = cells_of(values, CHECKPOINT, "truthfulqa", {PROTOCOL: 1}).set_index("metric")
    for metric, reference in {
        "mc1": [found["acc"] for found in harness(docs, "{{mc1_targets.choices}}", 0)],
        "mc2": mc2_of_the_harness(docs),
    }.items():
        assert cells.loc[metric, "value"] == pytest.approx(mean(reference), rel=1e-12)
        assert cells.loc[metric, "se"] == pytest.approx(mean_stderr(reference), rel=1e-12)
        assert cells.loc[metric, "n"] == 200


def test_brier(docs: list[dict[str, Any]]) -> None:
    from lm_eval.api.metrics import brier_score
    from lm_eval.utils import softmax

    for doc, found in zip(docs, ours(docs, "brier", "gold"), strict=True):
        probabilities = softmax(np.array(list(doc["scores"].values())))
        assert found == pytest.approx(brier_score([(doc["gold"], probabilities)]), rel=1e-12)


def test_class_loss_and_mass_of_the_prize(docs: list[dict[str, Any]]) -> None:
    import torch

    losses, masses = ours(docs, "class_loss", "gold"), ours(docs, "mass", "gold")
    for doc, loss, mass in zip(docs, losses, masses, strict=True):
        scores = torch.tensor([list(doc["scores"].values())], dtype=torch.float64)
        gold = torch.tensor([doc["gold"]])
        expected = torch.nn.functional.cross_entropy(scores, gold)
        assert loss == pytest.approx(float(expected), rel=1e-12)
        assert mass == pytest.approx(float(torch.logsumexp(scores, 1)), rel=1e-12)
