"""Memory that has run out, by what errors say of it."""

from __future__ import annotations

import torch

from downslope.errors import StudyError

_SHORT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")

_ONEDNN_WITHOUT_MEMORY = "could not create a primitive"
"""All that it says then; with more words it is about shapes."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or (where torch has no class of its own for it) a CPU, and
    less may fit."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _SHORT_OF_MEMORY)
    )


def refuse_without_products(error: Exception) -> None:
    """Raise StudyError in place of oneDNN's own error where it found no memory: what has failed so
    fails in that process from then on, for passes of any size."""
    if str(error) == _ONEDNN_WITHOUT_MEMORY:
        raise StudyError(
            "oneDNN found no memory for its products, and fails from then on",
            where="scoring",
            remedy="Run again with more memory for the job; finished packs are kept.",
        ) from error
