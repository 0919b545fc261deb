"""What a block of tokens may look at, against ancestors found token by token."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from downslope.attention import GivenUp, attend
from downslope.engine import Scorer
from downslope.packing import Pack, pack_requests
from downslope.protocols import Request
from downslope.self_check import choose_path
from downslope.sight import FEWEST_KEYS, Sight, looking, sight_of


def packs_of(*, begin: int, seed: int = 2) -> list[Pack]:
    """Packs of random trees behind a common beginning, three tokens to choose from."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(60):
        own = random.integers(0, 3, random.integers(2, 25)).tolist()
        made.append(Request((*range(100, 100 + begin), *own), 1))
    return pack_requests(made, 150)[0]


def ancestors(depth: NDArray[np.int32], token: int) -> set[int]:
    """A token and those above it: before each, the last one that is a token less deep."""
    found = {token}
    for j in range(token - 1, -1, -1):
        if depth[j] == depth[min(found)] - 1:
            found.add(j)
    return found


def require_ancestors(sight: Sight, pack: Pack, tokens: list[int]) -> None:
    """Each of the tokens has one row, which sees its path and the stem and no more."""
    stem = len(pack.stem)
    deep = [*range(stem), *pack.depth.tolist()]
    place = {
        int(stack.rows[block, row]): (stack, block, row)
        for stack in sight.stacks
        for block, row in np.ndindex(*stack.rows.shape)
    }
    assert sorted(place) == list(range(len(tokens)))
    for number, token in enumerate(tokens):
        stack, block, row = place[number]
        assert stack.row_depth[block, row] == pack.depth[token]
        keys = stack.keys[block, stack.seen[block, row]].tolist()
        assert sorted(keys) == [
            *range(stem),
            *sorted(stem + j for j in ancestors(pack.depth, token)),
        ]
        assert [deep[key] for key in stack.keys[block]] == stack.key_depth[block].tolist()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("block", [4, 128])
@pytest.mark.parametrize("begin", [0, 90])
def test_every_token_sees_its_ancestors_and_itself(begin: int, block: int, stacked: bool) -> None:
    packs = packs_of(begin=begin)
    assert len(packs) > 1
    assert {len(pack.stem) > 0 for pack in packs} == {begin > 0}
    for pack in packs:
        size, stem = len(pack.tokens), len(pack.stem)
        for first, stop in [(0, size), (0, size // 3), (size // 3, size - 1), (size - 1, size)]:
            sight = sight_of(
                *(pack.end, pack.depth),
                first=first,
                stop=stop,
                stem=stem,
                stacked=stacked,
                block=block,
            )
            require_ancestors(sight, pack, list(range(first, stop)))
            for every in (1, 3, 50):
                wanted = np.arange(0, stop - first, every)
                require_ancestors(sight.only(wanted), pack, (first + wanted).tolist())
            assert not sight.only(wanted[:0]).stacks


def test_blocks_of_one_stack_have_about_equally_many_keys() -> None:
    """A chain of 100 tokens in blocks of 4: the first one sees 4 keys, and the last one 100."""
    chain = np.arange(100, dtype=np.int32)
    sight = sight_of(np.full(100, 100, np.int32), chain, block=4, stacked=True)
    assert 3 < len(sight.stacks) < 25
    for stack in sight.stacks:
        counts = stack.seen.any(axis=1).sum(axis=1)
        assert counts.min() >= FEWEST_KEYS * counts.max()


def test_blocks_by_themselves_look_at_nothing_that_none_of_them_sees() -> None:
    """Without stacks no key is a padded one, and neighbours are looked at where they lie."""
    (pack, *_) = packs_of(begin=90)
    sight = sight_of(pack.end, pack.depth, stem=len(pack.stem), block=4)
    assert len(sight.stacks) >= len(pack.tokens) / 4
    assert all(stack.seen.any(axis=1).all() for stack in sight.stacks)
    rows = [rows for rows, _ in sight.indices(torch.device("cpu"))]
    assert [(row.start, row.stop) for row in rows] == [
        (stack.rows[0, 0], stack.rows[0, -1] + 1) for stack in sight.stacks
    ]


@pytest.mark.parametrize("stacked", [False, True])
def test_a_block_does_not_reach_beyond_the_end_of_a_long_path(stacked: bool) -> None:
    """Two chains of 50 tokens: none of the second's blocks has a key in the first."""
    chain = np.arange(50, dtype=np.int32)
    end = np.repeat(np.array([50, 100], np.int32), 50)
    sight = sight_of(end, np.tile(chain, 2), block=16, stacked=stacked)
    seen = [
        stack.keys[block][stack.seen[block].any(axis=0)]
        for stack in sight.stacks
        for block in range(len(stack.rows))
    ]
    assert len(seen) == 8, "four blocks for each chain"
    assert all(keys.max() < 50 or keys.min() >= 50 for keys in seen)


def test_a_pass_that_nobody_waits_for_ends_at_its_next_layer() -> None:
    one = torch.ones(1, 1, 1, 2)
    sight = sight_of(np.ones(1, np.int32), np.zeros(1, np.int32))
    with looking(sight):
        attend(None, one, one, one)
        sight.given_up.set()
        with pytest.raises(GivenUp):
            attend(None, one, one, one)


@pytest.mark.parametrize("name", ["s_aux", "position_bias"])
def test_what_is_not_computed_here_is_refused(name: str) -> None:
    one = torch.ones(1, 1, 1, 2)
    with looking(sight_of(np.ones(1, np.int32), np.zeros(1, np.int32))):
        out, _ = attend(None, one, one, one, **{name: None})
        assert torch.equal(out, one)
        with pytest.raises(NotImplementedError, match=f"attention with {name}"):
            attend(None, one, one, one, **{name: torch.zeros(1)})


def test_a_model_with_sinks_is_scored_plainly(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
        sliding_window=16, attn_implementation="eager", initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        scorer = Scorer(GptOssForCausalLM(config).eval())
    with caplog.at_level(logging.WARNING):
        choose_path(scorer, packs_of(begin=0))
    assert scorer.path == "plain"
    assert "the packed path fails (NotImplementedError: attention with s_aux)" in caplog.text


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 0), ("cuda", 1)])
def test_a_gpu_is_given_the_next_pack_before_it_is_asked_for_the_last(
    device: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = packs_of(begin=0)
    launched: list[int] = []

    def launch(_: Scorer, pack: Pack) -> Any:
        launched.append(len(launched))
        targets = len(pack.target_token)
        return torch.full((targets,), float(len(launched))), torch.ones(targets, dtype=torch.bool)

    monkeypatch.setattr(Scorer, "device", SimpleNamespace(type=device))
    monkeypatch.setattr(Scorer, "_launch", launch)
    for number, (scores, _) in enumerate(Scorer(None).score_packs(packs)):
        assert len(launched) == min(number + 1 + ahead, len(packs))
        assert scores[0] == number + 1, "in their order"
    assert number == len(packs) - 1
