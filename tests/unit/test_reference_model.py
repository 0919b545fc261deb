"""The reference that scoring is tested against is itself right: its requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import (
    mckenzie_pairs,
    michaelov_pairs,
    split_differences,
    truthfulqa_request_digest,
)

# lm-evaluation-harness v0.3.0 (62ca184), tests/testdata/truthfulqa_mc-v1-loglikelihood
PUBLISHED_DIGEST = "1e07020e9cf41d46ed65312eb39d2b8e6599673d4f0d6b67c0d0eba0efb493bb"


def test_truthfulqa_requests_have_the_published_digest(mirror: Path) -> None:
    assert truthfulqa_request_digest(mirror) == PUBLISHED_DIGEST


def test_pairs_follow_each_protocol_to_the_letter(mirror: Path) -> None:
    context, continuation = michaelov_pairs("neqa", mirror)[0][0]
    assert context.endswith("\nAnswer:")
    assert continuation == "  A"
    assert mckenzie_pairs("neqa", mirror)[0][0] == (context, " A")
    truthfulqa = michaelov_pairs("truthfulqa", mirror)
    assert (len(truthfulqa), sum(map(len, truthfulqa))) == (817, 5882)
    assert truthfulqa[1][-1][0].endswith("\nA:")
    assert truthfulqa[1][-1][1] == " Australia."


def test_apostrophes_break_two_class_lists_of_memo_trap_in_the_papers_protocol(
    mirror: Path,
) -> None:
    items = michaelov_pairs("memo-trap", mirror)
    assert [row for row, pairs in enumerate(items) if pairs[1][1] == ' t."]'] == [203, 493]
    assert mckenzie_pairs("memo-trap", mirror)[203][1][1].endswith("t.")


class TinyTokenizer:
    """One token a character, but "ab" and a space before "c" each merge into one."""

    def encode(self, text: str) -> list[int]:
        return [
            ord(character) for character in text.replace("ab", "\u1ab0").replace(" c", "\u0163")
        ]


@pytest.mark.parametrize(
    ("pair", "differs"),
    [
        (("x", "c"), False),
        (("x", " c"), False),
        (("xa", "b"), True),  # the class merges into the context: one token alone, none after it
        (("x ", "c"), False),  # both score the merged token
        (("x ", "d"), True),  # the prize leaves the space to the context
    ],
)
def test_split_differences(pair: tuple[str, str], differs: bool) -> None:
    assert split_differences(TinyTokenizer(), [[("x", "d"), pair]]) == [(0, 1)] * differs
