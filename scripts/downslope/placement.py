"""Where a model's weights go among GPUs: on one if it holds them, else spread over several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

from downslope.errors import StudyError

WORKING_BYTES = 1 << 30
"""Memory of each GPU that is left to the computation."""


def placed(model: Any, free: Iterable[int], *, where: str) -> dict[str, int]:
    """Module names to GPU numbers, from an empty model and the bytes that are free on each GPU.

    The whole model, named "", goes to the first GPU that holds the weights beside WORKING_BYTES;
    GPUs after that one are not asked. Where none does, accelerate deals the layers out in order,
    tearing none apart. Nothing is ever left to the memory of the CPU. Raises StudyError, with the
    number of GPUs that would do, where these are too few.
    """
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    rooms: list[int] = []
    for gpu, size in enumerate(free):
        rooms.append(max(0, size - WORKING_BYTES))
        if weights <= rooms[-1]:
            return {"": gpu}
    found = _dealt_out(model, rooms)
    if found is None:
        room = max(rooms, default=0)
        raise StudyError(
            f"has {weights / 1e9:.3g} GB of weights in {str(model.dtype).removeprefix('torch.')}; "
            f"{len(rooms)} GPUs with at most {room / 1e9:.3g} GB for them each are too few: "
            + _wanted(model, weights, room),
            where=where,
            remedy="Give the rule `score` more or larger GPUs (resource `gpu`), or set a dtype of "
            "16 bits in config.yaml.",
        )
    return found


def _dealt_out(model: Any, rooms: list[int]) -> dict[str, int] | None:
    """Modules over GPUs with that many bytes for weights each, or None where some are left."""
    from accelerate import infer_auto_device_map  # type: ignore[import-untyped]

    # Accelerate keeps part of the first device free for layers that it parks on the CPU: so there
    # is one before the first. And it would strike out GPUs that this machine has not.
    with patch("accelerate.utils.modeling.get_max_memory", dict):
        found = infer_auto_device_map(
            model,
            dict(enumerate([0, *rooms], start=-1)),
            no_split_module_classes=model._no_split_modules,
            offload_buffers=True,  # or it warns of what nobody will do
        )
    return None if "disk" in found.values() else dict(found)


def _wanted(model: Any, weights: int, room: int) -> str:
    """How many GPUs with `room` bytes for weights each would do."""
    most = sum(1 for _ in model.modules())  # one for each module: more would not help
    if room == 0 or not _dealt_out(model, [room] * most):
        return "even single layers need larger ones"
    fewest = -(-weights // room)
    count = next(n for n in range(fewest, most + 1) if _dealt_out(model, [room] * n))
    return f"it needs {count} such GPUs"
