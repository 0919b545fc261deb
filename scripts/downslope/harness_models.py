"""Which checkpoint a file of results belongs to: rules that read family, size, seed and step.

A rule is a regular expression with named groups, and constants for what the text does not say:

    pattern: '(?P<family>pythia)-(?P<parameters>[^,]+),revision=step(?P<step>\\d+)'
    seed: 1234

Groups and constants: family, parameters, seed, step; groups only: variant (added to the family:
pythia-70m-deduped is of the family pythia-deduped) and tokens. The first rule that matches wins.
Contents are believed, names are not: a rule reads a file's name only where it says `in: path`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downslope.errors import StudyError
from downslope.harness_files import Entry, HarnessFile

Key = tuple[str, int, int, int]
"""Family, parameters, seed and step: with these a row of checkpoints.tsv is found."""

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_SIZE = re.compile(r"(\d+)(?:\.(\d+))?([kmbt]?)(\d*)", re.IGNORECASE)
_STEP_IN_NAME = re.compile(r"(?:step|checkpoint|ckpt|iter)[-_]?0*(\d+)", re.IGNORECASE)
_SIZE_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])\d+(?:\.\d+)?[mb](?![A-Za-z0-9])", re.IGNORECASE)
_ROUNDING = 0.05  # names round: pythia-1.4b has 1,414,647,808 parameters, LLaMA-7B 6.7 billion
_CONSTANTS = ("family", "parameters", "seed", "step")


@dataclass(frozen=True)
class Model:
    """What a rule read. `tokens` is None where the text does not say it."""

    family: str
    parameters: int
    seed: int
    step: int
    tokens: int | None = None
    size: str = ""

    @property
    def key(self) -> Key:
        return self.family, self.parameters, self.seed, self.step


@dataclass(frozen=True)
class Found:
    """One task of one file, with the row of checkpoints.tsv that the file belongs to.

    source  the harness's name of the task
    """

    checkpoint: Mapping[str, Any]
    file: HarnessFile
    source: str
    entry: Entry


@dataclass(frozen=True)
class Rule:
    """A compiled rule of `harness.models`."""

    pattern: re.Pattern[str]
    reads_path: bool
    constants: Mapping[str, Any]
    where: str


def compile_rules(rules: Sequence[Mapping[str, Any]], where: str) -> list[Rule]:
    """Rules of the config, checked; StudyError for a pattern that cannot name a checkpoint."""
    compiled = []
    for number, rule in enumerate(rules, start=1):
        place = f"{where}, rule {number}"
        pattern = compile_pattern(rule["pattern"], place)
        constants = {name: rule[name] for name in _CONSTANTS if name in rule}
        named = set(pattern.groupindex)
        strange = sorted(named - {*_CONSTANTS, "variant", "tokens"})
        if strange:
            raise StudyError(
                f"the pattern has a group {strange[0]!r}",
                where=place,
                remedy=f"Groups are {', '.join(_CONSTANTS)}, variant and tokens.",
            )
        # The harness counts parameters in the model itself, so that they may be unnamed.
        lacking = sorted({"family", "seed", "step"} - named - set(constants))
        if lacking:
            raise StudyError(
                f"says nothing of the {lacking[0]}",
                where=place,
                remedy=f"Add a group (?P<{lacking[0]}>...) to the pattern, or the key "
                f"{lacking[0]} beside it.",
            )
        compiled.append(Rule(pattern, rule.get("in") == "path", constants, place))
    return compiled


def compile_pattern(text: str, where: str) -> re.Pattern[str]:
    """A regular expression; StudyError where it is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise StudyError(
            f"{text!r} is no regular expression ({error})",
            where=where,
            remedy="Mend it; in YAML, write it between single quotes.",
        ) from None


def place(file: HarnessFile, rules: Iterable[Rule]) -> Model | None:
    """The model of a file by the first rule that matches, None where none does.

    Raises StudyError where the rule that matches leaves something out.
    """
    for rule in rules:
        match = rule.pattern.search(file.name if rule.reads_path else file.model)
        if match is not None:
            return _model(file, rule, match)
    return None


def _model(file: HarnessFile, rule: Rule, match: re.Match[str]) -> Model:
    said = {name: text for name, text in match.groupdict().items() if text}
    found: dict[str, Any] = {**rule.constants, **said}
    found.setdefault("parameters", file.parameters)
    for name in _CONSTANTS:
        if found.get(name) is None:
            raise StudyError(
                f"{rule.where} matches and finds no {name} in {file.shown!r}",
                where=str(file.path),
                remedy=f"Name it in the pattern, or write the key {name} beside it.",
            )
    numbers = {}
    for name in ("parameters", "seed", "step", "tokens"):
        number = parse_size(str(found[name])) if found.get(name) is not None else None
        if number is None and name != "tokens":
            raise StudyError(
                f"{rule.where} reads {found[name]!r} as {name}, which is no whole number",
                where=str(file.path),
                remedy="Mend the pattern: sizes are written 70m, 1.4b, 1b7 or 70000000.",
            )
        numbers[name] = number
    return Model(
        family=slug(f"{found['family']}-{said.get('variant', '')}"),
        parameters=numbers["parameters"] or 0,
        seed=numbers["seed"] or 0,
        step=numbers["step"] or 0,
        tokens=numbers["tokens"],
        size=str(found["parameters"]).lower() if "parameters" in said else "",
    )


def parse_size(text: str) -> int | None:
    """A count from `70m`, `1.4B`, `1b7` (1.7 billion) or `143000`; None where it is not whole."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    whole, fraction, unit, tail = match[1], match[2] or "", match[3].lower(), match[4]
    if tail and (fraction or not unit):
        return None
    digits = fraction or tail
    scale = _SCALE[unit]
    if scale % 10 ** len(digits):
        return None
    return int(whole) * scale + int(digits or "0") * (scale // 10 ** len(digits))


def slug(text: str) -> str:
    """Lower-case letters and digits joined by single `.`, `_` or `-`, as ids in tables are."""
    plain = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    return re.sub(r"[._-]{2,}", lambda m: "-" if "-" in m[0] else m[0][0], plain).strip("._-")


def disagreement(file: HarnessFile, model: Model) -> str:
    """What a file's name says otherwise than its content, empty where the two agree.

    Compared are words such as step4000 or checkpoint-500 and sizes such as 70m, anywhere in the
    path below the searched folder. Sizes may differ by 5 %, since names round.
    """
    steps = [int(text) for text in _STEP_IN_NAME.findall(file.name)]
    if steps and model.step not in steps:
        return f"its name says step {steps[-1]}, its content step {model.step}"
    sizes = _SIZE_IN_NAME.findall(file.name)
    far = [
        abs((parse_size(s) or 0) - model.parameters) > _ROUNDING * model.parameters for s in sizes
    ]
    if sizes and all(far):
        return f"its name says {sizes[-1]} parameters, its content {model.parameters:,}"
    return ""
