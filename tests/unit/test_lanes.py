"""Packs side by side: the same scores, really at once, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import PACKED, VOCABULARY, one_by_one

from downslope import attention
from downslope.attention import attend
from downslope.engine import Scorer
from downslope.lanes import LANES, lanes, lanes_for
from downslope.packing import Pack, pack_requests
from downslope.protocols import Request
from downslope.sight import sight_at_hand


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "as many as before"
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Items behind two beginnings of 40 tokens, and some by themselves."""
    random = np.random.default_rng(7)
    made = []
    for begin in (40, 40, 0):
        stem = random.integers(0, VOCABULARY, begin).tolist()
        for _ in range(20):
            prompt = (*stem, *random.integers(0, VOCABULARY, random.integers(2, 30)).tolist())
            answer = random.integers(0, VOCABULARY, random.integers(1, 4)).tolist()
            made.append(Request((*prompt, *answer), len(answer)))
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    return PACKED["GPTNeoX"]()


def test_how_many_there_are() -> None:
    assert [lanes_for(threads, "cpu") for threads in (1, 2, 3, 16)] == [1, LANES, 1, LANES]
    assert lanes_for(16, "cuda") == 1


@pytest.mark.parametrize("name", PACKED)
def test_scores_are_those_of_each_request_by_itself(name: str, requests: list[Request]) -> None:
    model = PACKED[name]()
    packs, number = pack_requests(requests, 80)
    assert {len(pack.stem) for pack in packs} == {0, 40}
    found = list(Scorer(model, lanes=2).score_packs(packs))
    expected, greedy = one_by_one(model, requests)
    np.testing.assert_allclose(np.concatenate([a for a, _ in found])[number], expected, atol=1e-4)
    np.testing.assert_array_equal(np.concatenate([b for _, b in found])[number], greedy)


def test_a_job_that_goes_on_finds_the_same_bytes(model: Any, requests: list[Request]) -> None:
    packs, _ = pack_requests(requests, 80)
    one = [scores[0].tobytes() for scores in Scorer(model, lanes=2).score_packs(packs)]
    for begin in range(0, len(packs), 3):
        rest = Scorer(model, lanes=2).score_packs(packs[begin:])
        assert [scores[0].tobytes() for scores in rest] == one[begin:]


def test_one_thread_and_two_give_the_same_bytes(model: Any, requests: list[Request]) -> None:
    packs, _ = pack_requests(requests, 80)
    two = [scores[0].tobytes() for scores in Scorer(model, lanes=2).score_packs(packs)]
    torch.set_num_threads(1)
    assert [scores[0].tobytes() for scores in Scorer(model).score_packs(packs)] == two
    torch.set_num_threads(2)


def test_two_packs_are_computed_at_once_with_half_of_the_threads_each(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pack's forward pass waits for one of another pack."""
    torch.set_num_threads(4)
    packs = [pack for pack in pack_requests(requests, 80)[0] if not len(pack.stem)]
    packs = packs[: len(packs) // 2 * 2]
    assert len(packs) >= 4
    both = threading.Barrier(2, timeout=60)
    forward, threads = model.base_model.forward, []

    def together(**given: Any) -> Any:
        both.wait()
        threads.append(torch.get_num_threads())
        return forward(**given)

    monkeypatch.setattr(model.base_model, "forward", together)
    assert len(list(Scorer(model, lanes=2).score_packs(packs))) == len(packs)
    assert torch.get_num_threads() == 4
    torch.set_num_threads(2)
    assert threads == [2] * len(packs)


def test_numbers_come_in_the_order_of_the_packs(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pack's pass waits until the second one's numbers are there."""
    packs = [pack for pack in pack_requests(requests, 80)[0] if not len(pack.stem)]
    expected = [Scorer(model).score_pack(pack)[0] for pack in packs]
    second = threading.Event()
    launch = Scorer._launch

    def slow(self: Scorer, pack: Pack) -> Any:
        if pack is packs[0]:
            assert second.wait(60)
        found = launch(self, pack)
        if pack is packs[1]:
            second.set()
        return found

    monkeypatch.setattr(Scorer, "_launch", slow)
    for (found, _), scores in zip(Scorer(model, lanes=2).score_packs(packs), expected, strict=True):
        np.testing.assert_allclose(found, scores, atol=1e-5)


def test_a_stem_is_computed_once(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    packs, _ = pack_requests(requests, 80)
    computed = []
    forward = model.base_model.forward

    def watched(**given: Any) -> Any:
        computed.append(given["input_ids"].shape[1])
        if computed[-1] == 40:
            time.sleep(0.3)  # long enough for another lane to want it too
        return forward(**given)

    monkeypatch.setattr(model.base_model, "forward", watched)
    first = next(pack.stem for pack in packs if len(pack.stem))
    behind = [pack for pack in packs if np.array_equal(pack.stem, first)]
    assert len(behind) > 2
    assert all(len(pack.tokens) != 40 for pack in behind)
    list(Scorer(model, lanes=2).score_packs(behind))
    assert sorted(computed) == sorted([40, *(len(pack.tokens) for pack in behind)])


@pytest.mark.parametrize("narrow", [0.0, 1.0])
def test_who_closes_the_stream_waits_for_no_pack(
    narrow: float, model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes that are under way end at their next layer, and the model attends as before."""
    packs = [pack for pack in pack_requests(requests, 80)[0] if not len(pack.stem)]
    scorer, ended = Scorer(model, lanes=2, narrow=narrow), []
    own = model.config._attn_implementation

    def until_closed(module: Any, *tensors: Any, **given: Any) -> Any:
        sight = sight_at_hand()
        first = sight is not None and sight.tokens == len(packs[0].tokens)
        if not first:
            scorer._given_up.wait(60)
        out = attend(module, *tensors, **given)
        ended.append(first)
        return out

    assert all(len(pack.tokens) != len(packs[0].tokens) for pack in packs[1:])
    monkeypatch.setattr(attention, "attend", until_closed)
    stream = scorer.score_packs(packs)
    next(stream)
    stream.close()
    assert ended == [True, True], "the two layers of the first pack, and none of those under way"
    assert model.config._attn_implementation == own
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]


def test_an_error_in_a_lane_is_raised_where_the_numbers_are_asked_for(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    packs, _ = pack_requests(requests, 80)
    forward = model.base_model.forward

    def fails(**given: Any) -> Any:
        if given["input_ids"].shape[1] == len(packs[2].tokens):
            raise ValueError("here")
        return forward(**given)

    monkeypatch.setattr(model.base_model, "forward", fails)
    with pytest.raises(ValueError, match="here"):
        list(Scorer(model, lanes=2).score_packs(packs))
    assert not [t for t in threading.enumerate() if t.name.startswith("lane")]


def test_out_of_memory_both_lanes_compute_in_parts(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    packs, number = pack_requests(requests, 200)
    expected, _ = one_by_one(model, requests)
    forward = model.base_model.forward

    def small_only(**given: Any) -> Any:
        if given["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("out of memory")
        return forward(**given)

    monkeypatch.setattr(model.base_model, "forward", small_only)
    scorer = Scorer(model, lanes=2)
    found = np.concatenate([scores for scores, _ in scorer.score_packs(packs)])[number]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert scorer.inner is not None
    assert 30 <= scorer.inner <= 60


def test_a_small_pack_in_one_lane_does_not_say_what_the_other_can_do(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out for a large pack while one is computed that has no smaller parts."""
    (small,), _ = pack_requests([Request((1, 2, 3), 1)], 80)
    large, *_ = [pack for pack in pack_requests(requests, 80)[0] if not len(pack.stem)]
    begun, failed, tried = threading.Event(), threading.Event(), []
    forward = model.base_model.forward

    def first_fails(**given: Any) -> Any:
        if given["input_ids"].shape[1] == len(small.tokens):
            begun.set()
            assert failed.wait(60)
        elif not tried:
            tried.append(given)
            assert begun.wait(60)
            raise torch.OutOfMemoryError("out of memory")
        else:
            failed.set()
        return forward(**given)

    monkeypatch.setattr(model.base_model, "forward", first_fails)
    scorer = Scorer(model, lanes=2)
    assert len(list(scorer.score_packs([large, small]))) == 2
    assert scorer.inner == len(large.tokens) // 2


def test_what_has_not_begun_is_dropped() -> None:
    begun, go = [], threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        go.wait(60)

    with lanes(2) as submit:
        for number in range(6):
            submit(work, number)
        while len(begun) < 2:
            go.wait(0.01)
        threading.Timer(2, go.set).start()
    assert sorted(begun) == [0, 1]


def test_a_scorer_is_as_before_when_its_lanes_have_ended(
    model: Any, requests: list[Request]
) -> None:
    packs, _ = pack_requests(requests, 80)
    scorer = Scorer(model, lanes=2)
    stream = scorer.score_packs(packs)
    first, _ = next(stream)
    stream.close()
    assert np.array_equal(scorer.score_pack(packs[0])[0], first)
    assert np.isfinite(scorer.target_logprobs(packs[0])).all()
