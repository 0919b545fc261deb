"""Plans: all requests of a task under one tokenizer, laid out in packs, made once.

Every checkpoint with that tokenizer is scored by the same plan. A plan is a safetensors file:
flat arrays that can be read without unpickling anything, and a JSON text beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from downslope.arrow import numbers, texts
from downslope.errors import StudyError
from downslope.files import atomic_write
from downslope.items import Item, items_digest
from downslope.packing import Pack, computed_tokens, pack_requests
from downslope.protocols import Encode, Request, ScoringProtocol

_PACK_ARRAYS = tuple(field.name for field in fields(Pack))
_ROW_ARRAYS = ("item", "protocol", "choice", "request", "tokens", "characters")


@dataclass(frozen=True)
class Plan:
    """Packs of distinct requests, and the rows (item, protocol, choice) that they answer.

    rows["request"][k] is the number of the request that gives row k its log-likelihood, where
    the requests of all packs are counted through. `facts` holds what the plan was made from.
    """

    packs: list[Pack]
    rows: dict[str, NDArray[np.int64]]
    item_ids: list[str]
    facts: dict[str, Any]

    @cached_property
    def request_offsets(self) -> NDArray[np.int64]:
        """(packs + 1,) number of the first request of each pack."""
        return np.cumsum([0, *(len(pack.request_start) - 1 for pack in self.packs)])

    @cached_property
    def digest(self) -> str:
        """sha256 over every array and fact: equal plans give equal scores of equal weights."""
        digest = hashlib.sha256(json.dumps([self.facts, self.item_ids], sort_keys=True).encode())
        for name, array in sorted(_flat_arrays(self).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def scores(self, loglikelihood: NDArray[np.float32], greedy: NDArray[np.bool_]) -> pa.Table:
        """The score table from one log-likelihood and one greedy flag per request.

        Columns item, protocol, choice, loglikelihood, greedy, tokens, characters; rows in the
        order of the items, then of the protocols, then of the choices.
        """
        request = self.rows["request"]
        protocols = self.facts["protocols"]
        return pa.table(
            {
                "item": texts([self.item_ids[index] for index in self.rows["item"]]),
                "protocol": texts([protocols[index] for index in self.rows["protocol"]]),
                "choice": numbers(self.rows["choice"].astype(np.int16)),
                "loglikelihood": numbers(loglikelihood[request].astype(np.float32)),
                "greedy": numbers(greedy[request]),
                "tokens": numbers(self.rows["tokens"].astype(np.int32)),
                "characters": numbers(self.rows["characters"].astype(np.int32)),
            }
        )

    def row_of_request(self, request: int) -> str:
        """Which item, protocol and choice a request answers, for messages."""
        row = int(np.flatnonzero(self.rows["request"] == request)[0])
        protocol = self.facts["protocols"][self.rows["protocol"][row]]
        item = self.item_ids[self.rows["item"][row]]
        return f"item {item}, protocol {protocol}, choice {self.rows['choice'][row]}"


def make_plan(
    task: str,
    items: Sequence[Item],
    protocols: Sequence[ScoringProtocol],
    encode: Encode,
    *,
    tokenizer: str,
    max_length: int,
    pack_tokens: int,
) -> tuple[Plan, list[str]]:
    """Tokenise, deduplicate and lay out a task; returns the plan and notes for the log.

    `tokenizer` is the tokenizer's digest, `max_length` the models' longest sequence in tokens.
    Raises StudyError for an item that cannot be scored, naming it.
    """
    requests: list[Request] = []
    rows: list[tuple[int, int, int, int, int]] = []
    notes = []
    for number, protocol in enumerate(protocols):
        owners, pairs = [], []
        for index, item in enumerate(items):
            for choice, text in enumerate(protocol.choices(item.choices, item.classes)):
                owners.append((index, choice, len(text)))
                pairs.append((item.prompt, text))
        made = protocol.requests(encode, pairs, max_length)
        cut = {owner[0] for owner, request in zip(owners, made, strict=True) if request.truncated}
        if cut:
            notes.append(
                f"{protocol.name}: {len(cut)} of {len(items)} items are longer than can be read "
                f"and are cut, as that protocol does (first: row {items[min(cut)].row})"
            )
        for (index, choice, characters), request in zip(owners, made, strict=True):
            rows.append((index, number, choice, request.answer, characters))
        requests.extend(made)
    packs, request_number = pack_requests(requests, pack_tokens)
    table = np.array(rows, np.int64).reshape(-1, 5)
    order = np.lexsort((table[:, 2], table[:, 1], table[:, 0]))
    table, request_number = table[order], request_number[order]
    table = np.insert(table, 3, request_number, axis=1)
    plan = Plan(
        packs=packs,
        # safetensors writes the memory behind an array, so strided columns have to be copied.
        rows={name: table[:, k].copy() for k, name in enumerate(_ROW_ARRAYS)},
        item_ids=[item.item for item in items],
        facts={
            "task": task,
            "items": items_digest(items),
            "protocols": [protocol.name for protocol in protocols],
            "tokenizer": tokenizer,
            "max_length": max_length,
            "pack_tokens": pack_tokens,
        },
    )
    read = sum(len(request.tokens) - 1 for request in requests)
    computed = computed_tokens(packs)
    notes.append(
        f"{len(requests)} requests, {request_number.max() + 1} of them distinct, {read} tokens to "
        f"read, {computed} to compute in {len(packs)} packs of at most {pack_tokens}"
    )
    return plan, notes


def _flat_arrays(plan: Plan) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name in _PACK_ARRAYS:
        parts = [getattr(pack, name) for pack in plan.packs]
        arrays[f"pack.{name}"] = np.concatenate(parts)
        arrays[f"start.{name}"] = np.cumsum([0, *map(len, parts)])
    for name in _ROW_ARRAYS:
        arrays[f"row.{name}"] = plan.rows[name]
    return arrays


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan; equal plans give equal bytes."""
    text = json.dumps({"facts": plan.facts, "item_ids": plan.item_ids}, sort_keys=True)
    with atomic_write(path) as temporary:
        save_file(_flat_arrays(plan), temporary, metadata={"plan": text})


def read_plan(path: Path) -> Plan:
    """Read a plan; StudyError where the file is not one."""
    try:
        with safe_open(path, framework="numpy") as file:
            text = json.loads(file.metadata()["plan"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        packs = _packs_of(arrays)
        rows = {name: arrays[f"row.{name}"] for name in _ROW_ARRAYS}
        return Plan(packs, rows, text["item_ids"], text["facts"])
    except Exception as error:
        raise StudyError(
            f"is not a plan of this version ({error})",
            where=str(path),
            remedy="Delete it; it will be made again.",
        ) from None


def _packs_of(arrays: dict[str, NDArray[Any]]) -> list[Pack]:
    starts = {name: arrays[f"start.{name}"] for name in _PACK_ARRAYS}
    return [
        Pack(
            **{
                name: arrays[f"pack.{name}"][starts[name][k] : starts[name][k + 1]]
                for name in _PACK_ARRAYS
            }
        )
        for k in range(len(starts["tokens"]) - 1)
    ]
