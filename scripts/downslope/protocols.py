"""Scoring protocols: how a prompt and a choice become the tokens whose log-likelihood counts.

What "accuracy on a task" means differs between systems. Each protocol is a named object that
reproduces the text, the parsing of the class list, the tokenisation and the truncation of one
published system; arithmetic is float32 for all of them.

    michaelov2023   lm-evaluation-harness as Michaelov & Bergen (2023) used it: a space between
                    prompt and class (the classes begin with one, so there are two), classes cut
                    out between apostrophes, spaces at the prompt's end moved to the class, long
                    requests cut on the left.
    mckenzie2023    the pipeline of the Inverse Scaling Prize (McKenzie et al. 2023): prompt and
                    class joined as they are, the class counted from the end in as many tokens
                    as it has on its own, requests cut on the right after 1,023 tokens.

A protocol's name goes into the identity of every score. Change what one computes and it needs
a new name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

from downslope.errors import StudyError

MCKENZIE_LIMIT = 1023
"""`model_max_length` in the prize's pipeline, one less than the positions of GPT-2."""


class Encode(Interface):
    """A tokenizer reduced to what protocols need: texts to token ids."""

    def __call__(self, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]: ...


@dataclass(frozen=True)
class Request:
    """A sequence of token ids of which the last `answer` ones are scored."""

    tokens: tuple[int, ...]
    answer: int
    truncated: bool = False


@dataclass(frozen=True)
class ScoringProtocol:
    """A named way to turn items into requests. `ddof` is that of its standard errors."""

    name: str
    delimiter: str
    ddof: int
    formats: frozenset[str]
    parse_classes: Callable[[str], list[str]]
    encode_pairs: Callable[[Encode, Sequence[tuple[str, str]], int], list[Request]]

    def choices(self, choices: Sequence[str], classes: str) -> list[str]:
        """An item's choices as this protocol reads them.

        `classes` is the raw text of the data set's class list; it is empty for formats that
        have none, where the choices are taken as they are.
        """
        return self.parse_classes(classes) if classes else list(choices)

    def requests(
        self, encode: Encode, pairs: Sequence[tuple[str, str]], max_length: int
    ) -> list[Request]:
        """Requests for pairs of prompt and choice, in their order.

        `max_length` is the models' longest sequence in tokens. Raises StudyError for a pair
        whose choice adds no token of its own.
        """
        joined = [(prompt, self.delimiter + choice) for prompt, choice in pairs]
        return self.encode_pairs(encode, joined, max_length)


def parse_python_list(text: str) -> list[str]:
    """The strings of a Python list literal; ValueError for anything else."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("is not a Python list") from None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError("is not a Python list of strings")
    return value


def parse_between_apostrophes(text: str) -> list[str]:
    """What stands between apostrophes, as the paper's harness cut the class list.

    A class with an apostrophe of its own comes out wrong: `[' here.', " in't."]` gives
    ` here.` and `t."]`. It is reproduced because the published accuracies contain it.
    """
    return text.split("'")[1::2]


def _encode_moving_spaces(
    encode: Encode, pairs: Sequence[tuple[str, str]], max_length: int
) -> list[Request]:
    """Joint encoding; the continuation is what follows as many tokens as the prompt has alone.

    Spaces at the prompt's end belong to the continuation. The model reads the prompt's own
    tokens followed by that rest, also where the joint encoding begins differently, and of a
    long request the last `max_length` + 1 tokens are kept (the last one is never read). This is
    lm-evaluation-harness `_encode_pair` and `_loglikelihood_tokens`.
    """
    moved = []
    for context, continuation in pairs:
        kept = context.rstrip()
        moved.append((kept, context[len(kept) :] + continuation))
    contexts = encode([context for context, _ in moved], special_tokens=False)
    wholes = encode([context + rest for context, rest in moved], special_tokens=False)
    requests = []
    for pair, context_ids, whole_ids in zip(pairs, contexts, wholes, strict=True):
        if not context_ids:
            raise StudyError(
                "the prompt gives no token, and a model predicts nothing without one",
                where=f"the prompt {pair[0]!r} before {pair[1]!r}",
                remedy="Leave the item out, or give its prompt some text.",
            )
        answer = len(whole_ids) - len(context_ids)
        _require_answer(answer, pair, max_length)
        ids = context_ids + whole_ids[len(context_ids) :]
        requests.append(
            Request(tuple(ids[-(max_length + 1) :]), answer, truncated=len(ids) > max_length + 1)
        )
    return requests


def _encode_counting_from_the_end(
    encode: Encode, pairs: Sequence[tuple[str, str]], max_length: int
) -> list[Request]:
    """Joint encoding with the tokenizer's special tokens; as many tokens are scored, from the
    end, as the class has on its own. Cutting on the right can remove the answer: what is then
    scored are the prompt's last tokens, equal for all classes, as in the prize's pipeline
    (naimenz/inverse-scaling-eval-pipeline, `_evaluate_classification`).
    """
    limit = min(MCKENZIE_LIMIT, max_length)
    alone = encode([choice for _, choice in pairs], special_tokens=False)
    wholes = encode([prompt + choice for prompt, choice in pairs], special_tokens=True)
    requests = []
    for pair, choice_ids, whole_ids in zip(pairs, alone, wholes, strict=True):
        kept = whole_ids[:limit]
        _require_answer(min(len(choice_ids), len(kept) - 1), pair, max_length)
        requests.append(
            Request(tuple(kept), min(len(choice_ids), len(kept) - 1), len(whole_ids) > limit)
        )
    return requests


def _require_answer(answer: int, pair: tuple[str, str], max_length: int) -> None:
    if 0 < answer <= max_length:
        return
    found = "adds no token to its prompt" if answer <= 0 else f"has {answer} tokens"
    raise StudyError(
        f"the choice {pair[1]!r} {found}; between 1 and {max_length} can be scored",
        where=f"the prompt that ends in {pair[0][-40:]!r}",
        remedy="Leave the item out, or check that tokenizer and max_length are the models' own.",
    )


PROTOCOLS: dict[str, ScoringProtocol] = {
    protocol.name: protocol
    for protocol in (
        ScoringProtocol(
            name="michaelov2023",
            delimiter=" ",
            ddof=1,
            formats=frozenset({"prize", "truthfulqa"}),
            parse_classes=parse_between_apostrophes,
            encode_pairs=_encode_moving_spaces,
        ),
        ScoringProtocol(
            name="mckenzie2023",
            delimiter="",
            ddof=0,
            formats=frozenset({"prize"}),
            parse_classes=parse_python_list,
            encode_pairs=_encode_counting_from_the_end,
        ),
    )
}
