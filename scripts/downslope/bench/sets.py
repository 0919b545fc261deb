"""Real items to measure on, and the requests that two systems make of them.

Downslope takes items; lm-evaluation-harness takes requests. Those are the ones its own tasks would
issue: every class of every item, and for TruthfulQA the answers of MC1 and those of MC2, which
contain them. Text and order of the answers are the protocol's, on both sides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from downslope.bench.operations import Needed, needed
from downslope.errors import StudyError
from downslope.items import Item, parse_items
from downslope.packing import computed_tokens
from downslope.plan import Plan, make_plan
from downslope.protocols import PROTOCOLS, ScoringProtocol
from downslope.tables import read_table
from downslope.text import read_text
from downslope.tokenization import FolderTokenizer

ROOT = Path(__file__).resolve().parents[3]
SETS = ("truthfulqa", "memo-trap", "neqa", "hindsight-neglect")
TOKENIZER = "pythia_tokenizer/tokenizer.json"
PROTOCOL = "michaelov2023"


def named(text: str) -> list[str]:
    """The parts of `one,other`."""
    return [part for part in text.split(",") if part]


def find_mirror() -> Path:
    """The folder of data sets: DOWNSLOPE_MIRROR, or ../shared/data beside the repository.

    Raises StudyError where there is none, or where it is an address.
    """
    given = os.environ.get("DOWNSLOPE_MIRROR", "")
    place = Path(given) if given else ROOT / "../shared/data"
    if not (place / TOKENIZER).is_file():
        raise StudyError(
            f"there is no {TOKENIZER}, so there are no items to measure on",
            where=given or str(place.resolve()),
            remedy="Set DOWNSLOPE_MIRROR to a folder with the mirror_path files of "
            "config/datasets.tsv and Pythia's tokenizer.",
        )
    return place.resolve()


@dataclass(frozen=True)
class BenchSet:
    """A data set, or every so many of its items."""

    name: str
    items: list[Item]
    every: int = 1

    def thinned(self, every: int) -> BenchSet:
        """Every so many items, from the first on."""
        return replace(self, items=self.items[::every], every=every)

    @property
    def protocols(self) -> list[ScoringProtocol]:
        """The protocols of the paper's study that these items can be scored under."""
        form = "prize" if self.items[0].classes else "truthfulqa"
        return [protocol for protocol in PROTOCOLS.values() if form in protocol.formats]


def read_sets(names: Sequence[str], mirror: Path) -> list[BenchSet]:
    """The named data sets of the register from the mirror, however many items its files hold.

    Raises StudyError for no name at all, for one that the register lacks, and for a file that the
    mirror lacks.
    """
    if not names:
        raise StudyError("no data set is named", remedy=f"Name some of {', '.join(SETS)}.")
    register = {
        row["dataset"]: row
        for row in read_table(ROOT / "config/datasets.tsv", "datasets")
        if row["format"] in ("prize", "truthfulqa")
    }
    found = []
    for name in names:
        if name not in register:
            raise StudyError(
                f"there is no data set {name!r} that can be scored",
                where="config/datasets.tsv",
                remedy=f"It has {', '.join(register)}.",
            )
        path, form = mirror / register[name]["mirror_path"], register[name]["format"]
        found.append(BenchSet(name, parse_items(path, form, _count(path, form))[0]))
    return found


def _count(path: Path, form: str) -> int:
    """How many items a file seems to have; the parser says what is wrong with them."""
    text = read_text(path)
    if form == "prize":
        return len(text.removesuffix("\n").split("\n"))
    try:
        return len(json.loads(text))
    except ValueError:
        return 0


class Asked(NamedTuple):
    """A request to the harness: item and choice by number, context and continuation."""

    item: int
    choice: int
    context: str
    continuation: str


def harness_requests(items: Sequence[Item], protocol: ScoringProtocol) -> list[Asked]:
    """The requests of the harness's own tasks for these items, task after task."""
    texts = [protocol.choices(item.choices, item.classes) for item in items]
    tasks = [[item.mc1 for item in items]] if any(item.mc1 for item in items) else []
    tasks.append([tuple(range(len(choices))) for choices in texts])
    return [
        Asked(number, choice, item.prompt, protocol.delimiter + texts[number][choice])
        for task in tasks
        for number, (item, choices) in enumerate(zip(items, task, strict=True))
        for choice in choices
    ]


def decided_among(items: Sequence[Item], protocol: ScoringProtocol) -> list[tuple[int, ...]]:
    """The choices among which each item's decision falls: all of them, or those of MC1."""
    return [
        item.mc1 or tuple(range(len(protocol.choices(item.choices, item.classes))))
        for item in items
    ]


@dataclass(frozen=True)
class Work:
    """What a set asks of both systems.

    requests    of the harness's tasks            naive     tokens that they read one by one
    different   requests among them               sequences, read  different sequences among those,
                                                  and their tokens: the harness runs each once
    needed      see bench_operations              computed  tokens that the packs compute
    """

    items: int
    requests: int
    different: int
    naive: int
    sequences: int
    read: int
    needed: Needed
    computed: int


@dataclass(frozen=True)
class Layout:
    """How requests are made and laid out: tokenizer (a folder, and what it encodes with), longest
    sequence, tokens of a pack."""

    tokenizer: Path
    encode: FolderTokenizer
    max_length: int
    pack_tokens: int

    def plan(self, bench: BenchSet, protocols: Sequence[ScoringProtocol] = ()) -> Plan:
        """Downslope's plan of a set, under the protocol of the comparison if not under others."""
        plan, _ = make_plan(
            bench.name,
            bench.items,
            protocols or [PROTOCOLS[PROTOCOL]],
            self.encode,
            tokenizer=self.encode.digest,
            max_length=self.max_length,
            pack_tokens=self.pack_tokens,
        )
        return plan

    def work(self, bench: BenchSet, plan: Plan) -> Work:
        """What a set asks for under the protocol that both systems are measured with, and `plan`
        is its plan under that protocol."""
        protocol = PROTOCOLS[PROTOCOL]
        asked = harness_requests(bench.items, protocol)
        # The protocol puts its delimiter before a choice itself.
        pairs = [(ask.context, ask.continuation.removeprefix(protocol.delimiter)) for ask in asked]
        requests = protocol.requests(self.encode, pairs, self.max_length)
        reads = [request.tokens[:-1] for request in requests]
        sequences = set(reads)
        return Work(
            items=len(bench.items),
            requests=len(requests),
            different=len({(request.tokens, request.answer) for request in requests}),
            naive=sum(map(len, reads)),
            sequences=len(sequences),
            read=sum(map(len, sequences)),
            needed=needed(requests),
            computed=computed_tokens(plan.packs),
        )


def plan_scores(plan: Plan, loglikelihood: NDArray[np.float32]) -> dict[tuple[int, int], float]:
    """Log-likelihood of each (item, choice) from those of a plan's requests."""
    rows = plan.rows
    return {
        (int(item), int(choice)): float(loglikelihood[request])
        for item, choice, request in zip(rows["item"], rows["choice"], rows["request"], strict=True)
    }


class Agreement(NamedTuple):
    """Largest difference of a log-likelihood, items decided differently, and items on which the
    reference's two best choices are equal but for rounding."""

    difference: float
    differ: int
    ties: int


def agreement(
    scores: Mapping[tuple[int, int], float],
    reference: Mapping[tuple[int, int], float],
    among: Sequence[Sequence[int]],
    tie: float,
) -> Agreement:
    """Compare two systems' log-likelihoods of (item, choice).

    An item's decision is its choice of the largest log-likelihood, the first of equals, among
    those that `among` holds for it; scores of the reference within `tie` of each other are a tie.
    """
    differ = ties = 0
    for item, choices in enumerate(among):
        own, other = ([each[item, choice] for choice in choices] for each in (scores, reference))
        differ += int(np.argmax(own) != np.argmax(other))
        first, second = sorted(other, reverse=True)[:2]
        ties += first - second <= tie
    largest = max(abs(scores[key] - value) for key, value in reference.items())
    return Agreement(largest, differ, ties)
