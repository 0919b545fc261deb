"""What is known beforehand of models and tasks that others evaluated: rules for the usual model
names, the tokens of a training step, the tasks of this project under the harness's names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from downslope.errors import StudyError
from downslope.harness_files import HarnessFile
from downslope.harness_models import Rule, compile_rules, parse_size, place, slug
from downslope.tables import SCHEMAS, read_table

_NAME = (
    r"^(?:[^,]*[=/])?(?P<family>{family})[-_](?P<parameters>\d+(?:\.\d+)?[kmbtKMBT]\d*)"
    r"(?![A-Za-z0-9.])(?P<variant>[^,/]*?)(?:-seed(?P<seed>\d+))?"
)
_STEP = (
    r"(?:step|checkpoint|ckpt|iter)[-_]?(?P<step>\d+)"
    r"(?:-tokens(?P<tokens>\d+(?:\.\d+)?[kmbtKMBT]))?(?![A-Za-z0-9])"
)
USUAL = {
    # What export_harness writes.
    "exported": r"family=(?P<family>{family}),parameters=(?P<parameters>\d+),"
    r"seed=(?P<seed>\d+),step=(?P<step>\d+),tokens=(?P<tokens>\d+)",
    # pretrained=EleutherAI/pythia-70m-deduped,revision=step1000
    "revision": _NAME + r",revision=[^,]*?" + _STEP,
    # pretrained=/runs/gpt-125m/checkpoint-1000
    "folder": _NAME + "[/_-]" + _STEP,
}
"""Patterns of the usual ways to name a checkpoint; `{family}` is any family, or a given one."""
_PLAIN = (
    r"/(?P<family>{family})-(?P<parameters>[^-,]+),revision=step(?P<step>\d+)",
    r"/(?P<family>{family})-(?P<parameters>[^-,]+)(?P<variant>[^,]*),revision=step(?P<step>\d+)",
    r"/(?P<family>{family})-(?P<parameters>[^-/,]+)/step(?P<step>\d+)",
    r"/(?P<family>{family})-(?P<parameters>[^-/,]+)/checkpoint-(?P<step>\d+)",
)
"""Shorter ones, which take the place of a usual pattern where they read the same."""
_NO_STEP = _NAME + r"(?:,revision=[^,]*)?(?=,(?!peft=|revision=)|$)"
"""A model that names no step, such as pretrained=facebook/opt-125m; not one with an adapter."""

# Tokens that a step of the Pythia suite reads: 1,024 sequences of 2,048 (Biderman et al. 2023).
# Its first version and its variants with other batch sizes have other names.
PYTHIA = re.compile(r"pythia(-v1(\.\d)?)?(-deduped|-bf16)*")
PYTHIA_TOKENS = 2_097_152
PYTHIA_SEED = 1234

# Tasks of this project whose names in the harness do not simply add a prefix.
_RENAMED = {
    "inverse_scaling_hindsight_neglect_10shot": "hindsight-neglect",
    "inverse_scaling_redefine_math": "redefine",
    **dict.fromkeys(("truthfulqa_mc", "truthfulqa_mc1", "truthfulqa_mc2"), "truthfulqa"),
}
# In 0.4 the two questions of TruthfulQA are tasks of their own, and both call their metric acc.
TASK_METRICS = {"truthfulqa_mc1": {"acc": "mc1"}, "truthfulqa_mc2": {"acc": "mc2"}}


def default_rules(
    files: Sequence[HarnessFile], steps: Mapping[str, int], seed: int | None
) -> list[dict[str, Any]]:
    """A rule for each family that the usual patterns find in `files`, in the order found.

    `steps` maps families whose models name no step to the step that they are of. `seed` is that
    of runs whose text has none; without it, the one of `default_seed`.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    usual = {kind: _rule(pattern.format(family="[^,/=]+?")) for kind, pattern in USUAL.items()}
    bare = re.compile(_NO_STEP.format(family="[^,/=]+?"))
    for file in files:
        kind = next((kind for kind, rule in usual.items() if place(file, [rule])), "")
        match = usual[kind].pattern.search(file.model) if kind else bare.search(file.model)
        if match is None:
            continue
        family = slug(match["family"])
        rule: dict[str, Any] = {"seed": default_seed([family]) if seed is None else seed}
        if not kind:
            step = steps.get(slug(f"{family}-{match['variant']}"), steps.get(family))
            if step is None or parse_size(match["parameters"]) is None:
                continue
            rule["step"] = step
        pattern = USUAL.get(kind, _NO_STEP).format(family=literal(match["family"]))
        found.setdefault((kind, match["family"]), {"pattern": pattern, **rule})
    for (kind, family), rule in found.items():
        if kind in ("revision", "folder"):
            rule["pattern"] = _plainest(rule["pattern"], literal(family), files)
    # A model without a step is tried last: its pattern matches those with one as well.
    return [found[key] for key in sorted(found, key=lambda key: not key[0])]


def literal(text: str) -> str:
    """A pattern of nothing but this text, with as few backslashes as it can do with."""
    return re.escape(text).replace(r"\-", "-")


def _rule(pattern: str) -> Rule:
    return compile_rules([{"pattern": pattern, "seed": 0}], pattern)[0]


def _plainest(pattern: str, family: str, files: Sequence[HarnessFile]) -> str:
    """The shortest pattern that reads every file as `pattern` does, which people will read."""
    wanted = [place(file, [_rule(pattern)]) for file in files]
    for plain in _PLAIN:
        rule = _rule(plain.format(family=family))
        try:
            if [place(file, [rule]) for file in files] == wanted:
                return rule.pattern.pattern
        except StudyError:  # it takes something for a size that is none
            continue
    return pattern


def default_seed(families: Collection[str]) -> int:
    """1234 for Pythia, whose models all have that seed unless they name another; 0 elsewhere."""
    return PYTHIA_SEED if families and all(f.startswith("pythia") for f in families) else 0


def default_tokens(family: str) -> int | None:
    """Tokens that a training step of a family reads, where that is known."""
    return PYTHIA_TOKENS if PYTHIA.fullmatch(family) else None


def known_tasks(sources: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Harness task -> this project's row of tasks.tsv, for the tasks that are the same.

    Of two harness tasks that are one of ours (an earlier and a later port, say) neither is known,
    since their cells would collide. TruthfulQA's two halves do not.
    """
    table = read_table(SCHEMAS.parent / "published" / "tasks.tsv", "tasks")
    shipped = {row["task"]: row for row in table}
    names: dict[str, list[str]] = {}
    for source in dict.fromkeys(sources):
        plain = re.sub(r"^(isp|inverse_scaling)_", "", source)
        name = _RENAMED.get(source, plain.replace("_", "-") if plain != source else "")
        if name in shipped:
            names.setdefault(name, []).append(source)
    return {
        source: shipped[name]
        for name, ports in names.items()
        if len(ports) == 1 or set(ports) == set(TASK_METRICS)
        for source in ports
    }
