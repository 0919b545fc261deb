"""A study from a folder of the harness's output: its config and tables, ready to be looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from downslope.errors import StudyError
from downslope.harness_cells import PROTOCOL
from downslope.harness_defaults import default_rules, default_seed, default_tokens, literal
from downslope.harness_files import HarnessFile
from downslope.harness_models import Model, compile_rules, place, slug
from downslope.harness_tasks import TaskTables, task_tables
from downslope.sizes import size_name

_CKPT = re.compile(r"(?:^|,)ckpt=([a-z0-9._-]+)")  # what export_harness writes
UNTRAINED = "untrained: step 0 has read no tokens, and regressions take their logarithm"
_FOOTER = """
# For `snakemake drift`, which fails where a newest checkpoint lost more than this (two points):
# drift: {allowed_loss: 0.02}
"""
_HEADER = """\
# Results that lm-evaluation-harness made elsewhere. Written by adopt_harness.py; change what you
# like. harness.models: which file is which checkpoint, by the first pattern that matches.
# families: what is tested and corrected together; the first one is in Table 1 and Figure 1.
"""
_HUB = re.compile(
    r"^pretrained=([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:,revision=([^,]+))?(?:,|$)"
)


@dataclass(frozen=True)
class Wishes:
    """What the user said beside the folder; see `adopt_harness.py --help`.

    `tokens_per_step` and `steps` map families to numbers; the key "" is every other family.
    `better` maps metrics to `higher` or `lower`.
    """

    title: str
    files: str = "**/*.json"
    patterns: Sequence[str] = ()
    path_patterns: Sequence[str] = ()
    tasks: Sequence[str] = ()
    without: Sequence[str] = ()
    tokens_per_step: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    better: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Adoption:
    """Rows and keys of the study to be, and what could not become part of it.

    unplaced  shown text of a model -> names of its files
    tokens    family -> tokens of a step, where the text of its models does not say them
    """

    config: dict[str, Any]
    checkpoints: list[dict[str, Any]]
    tables: TaskTables
    unplaced: dict[str, list[str]]
    tokens: dict[str, int]


def adopt(files: Sequence[HarnessFile], folder: str, wishes: Wishes) -> Adoption:
    """Config and tables for all files that can be placed; `folder` as the config is to name it.

    Raises StudyError where nothing can be placed, and where tokens per step are not known.
    """
    rules = _user_rules(files, wishes)
    compiled = compile_rules(rules, "--pattern")
    rest = [file for file in files if place(file, compiled) is None]
    rules += default_rules(rest, wishes.steps, wishes.seed)
    compiled = compile_rules(rules, "harness.models") if rules else []
    placed = []
    unplaced: dict[str, list[str]] = {}
    for file in files:
        model = place(file, compiled)
        if model is None:
            unplaced.setdefault(file.shown, []).append(file.name)
        else:
            placed.append((file, model))
    if not placed:
        shown = next(iter(unplaced))
        raise StudyError(
            f"no file says in a usual way of which model and step it is, the first {shown!r} "
            f"({unplaced[shown][0]})",
            where=folder,
            remedy="Give a --pattern with groups, such as "
            r"'pretrained=.*/(?P<family>gpt)-(?P<parameters>\d+m)/ckpt(?P<step>\d+)', or a "
            "--path-pattern that reads the files' names; for models that name no step, --step.",
        )
    checkpoints, tokens = _checkpoints(placed, wishes.tokens_per_step)
    tables = task_tables([file for file, _ in placed], wishes.tasks, wishes.without, wishes.better)
    harness: dict[str, Any] = {"folder": folder, "files": wishes.files, "models": rules}
    for key, value in (
        ("leave_out", [literal(text) for text in unplaced]),
        ("tasks", tables.names),
        ("metrics", tables.metrics),
    ):
        harness |= {key: value} if value else {}
    config = {
        "title": wishes.title,
        "cells": PROTOCOL,
        "harness": harness,
        "level": 0.05,
        "families": tables.families,
    }
    return Adoption(config, checkpoints, tables, unplaced, tokens)


def config_text(config: Mapping[str, Any]) -> str:
    """The config as YAML, a long line for each pattern."""
    body = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=10_000)
    return _HEADER + body + _FOOTER


def _user_rules(files: Sequence[HarnessFile], wishes: Wishes) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [{"pattern": text} for text in wishes.patterns]
    rules += [{"pattern": text, "in": "path"} for text in wishes.path_patterns]
    for rule in rules:
        rule["seed"] = 0
        own = compile_rules([rule], "--pattern")
        families = {model.family for file in files if (model := place(file, own)) is not None}
        rule["seed"] = default_seed(families) if wishes.seed is None else wishes.seed
    return rules


def _checkpoints(
    placed: Sequence[tuple[HarnessFile, Model]], per_step: Mapping[str, int]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of checkpoints.tsv by run and step, and the tokens per step that they rest on."""
    models = {model.key: (model, file) for file, model in reversed(placed)}
    tokens = _tokens_per_step([model for model, _ in models.values()], per_step)
    seeds: dict[tuple[str, int], set[int]] = {}
    for family, parameters, seed, _ in models:
        seeds.setdefault((family, parameters), set()).add(seed)
    rows = []
    sources: set[tuple[str, str]] = set()
    for key in sorted(models):
        model, file = models[key]
        several = len(seeds[model.family, model.parameters]) > 1
        parts = [model.family, _size(model), f"seed{model.seed}" if several else ""]
        given = _CKPT.search(file.model)
        ckpt = given[1] if given else slug("-".join([*filter(None, parts), f"step{model.step}"]))
        read = model.step * tokens.get(model.family, 0) if model.tokens is None else model.tokens
        source = _source(file)
        if source in sources:  # one name for models that other arguments tell apart
            source = (f"unknown ({ckpt})", "")
        sources.add(source)
        rows.append(
            {
                "ckpt": ckpt,
                "family": model.family,
                "parameters": model.parameters,
                "step": model.step,
                "tokens": max(1, read),
                "seed": model.seed,
                "source": source[0],
                "revision": source[1],
                "tokenizer": "",
                "known_bad": "" if read else UNTRAINED,
            }
        )
    return rows, tokens


def _tokens_per_step(models: Sequence[Model], given: Mapping[str, int]) -> dict[str, int]:
    """Family -> tokens per step, for families whose models do not say how many they have read."""
    families = sorted({model.family for model in models if model.tokens is None and model.step})
    known = {
        family: given.get(family, given.get("", default_tokens(family))) for family in families
    }
    lacking = [family for family, tokens in known.items() if tokens is None]
    if lacking:
        raise StudyError(
            f"nothing says how many tokens a step of {', '.join(lacking)} reads",
            where="checkpoints.tsv, column tokens",
            remedy=f"Add --tokens-per-step {lacking[0]}=N (batch size times sequence length).",
        )
    return {family: tokens for family, tokens in known.items() if tokens is not None}


def _source(file: HarnessFile) -> tuple[str, str]:
    """Source and revision of the weights, as far as the file says them."""
    hub = _HUB.match(file.model)
    if hub:
        return f"hub:{hub[1]}", hub[2] or "main"
    return file.shown.split(",")[0].removeprefix("pretrained=") or file.name, ""


def _size(model: Model) -> str:
    """A size as names have it: what the file says, else 93069280 -> 93.1m."""
    if model.size and not model.size.isdigit():
        return model.size
    return size_name(model.parameters).lower()
