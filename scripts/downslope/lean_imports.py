"""Import transformers without what scoring never uses.

Before the class of any model stand imports that take as long as torch itself: sharded training
(torch.distributed.tensor with sympy, fsdp, checkpoint), the compiler (torch._dynamo), losses for
finding objects in images (scipy.optimize), and a second reading of all of its model files. A grid
pays for them once for each checkpoint.

Afterwards whoever asks for any of them imports it in the ordinary way; only transformers goes on
believing that torch has no `torch.distributed` and that scipy is not installed. Nothing here
touches a number. Should any of it fail, with other versions say, transformers is imported in full.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

_MODULES = (  # what every causal language model needs
    "transformers.modeling_utils",
    "transformers.modeling_layers",
    "transformers.masking_utils",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
)


def import_transformers() -> None:
    """Import what every model needs, unless it has been imported already."""
    if _MODULES[0] in sys.modules:
        return
    known = set(sys.modules)
    try:
        with _lean():
            for name in _MODULES:
                importlib.import_module(name)
    except Exception as error:  # whatever it is, the ordinary import follows and is the judge
        logging.getLogger("downslope").debug("transformers is imported in full: %r", error)
        for name in set(sys.modules) - known:
            if name.split(".")[0] == "transformers":
                del sys.modules[name]


@contextmanager
def _lean() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()  # an import makes objects by the hundred thousand, and hardly any garbage
    stand_ins = {} if "torch._dynamo" in sys.modules else _compiler()
    sys.modules.update(stand_ins)
    answers: list[Any] = []
    try:
        from transformers.utils import import_utils

        # Transformers keeps each answer, so that all of its modules go by the same one.
        answers = [import_utils.is_torch_distributed_available, import_utils.is_scipy_available]
        with patch("torch.distributed.is_available", return_value=False):
            import_utils.is_torch_distributed_available()
        import_utils.is_scipy_available.cache_clear()  # it was asked for by `import transformers`
        with patch.object(import_utils, "_is_package_available", return_value=(False, None)):
            import_utils.is_scipy_available()
        with patch.object(import_utils, "define_import_structure", _names_of_models):
            importlib.import_module("transformers.models")
        yield
    except BaseException:
        for answer in answers:
            answer.cache_clear()
        raise
    finally:
        for name in stand_ins:
            del sys.modules[name]
        if collecting:
            gc.enable()


def _names_of_models(_: object) -> dict[frozenset[str], dict[str, set[str]]]:
    """What the files under transformers/models define, by the packages that are missing for it.

    `import transformers` has read them all: its own list is the same but for the prefix.
    """
    top = sys.modules["transformers"]
    found: dict[frozenset[str], dict[str, set[str]]] = defaultdict(dict)
    for module, names in top._import_structure.items():
        if module.startswith("models."):
            for name in names:
                missing = frozenset(top._object_missing_backend.get(name, ()))
                found[missing].setdefault(module.removeprefix("models."), set()).add(name)
    return found


def _compiler() -> dict[str, ModuleType]:
    """Stand-ins for the modules of the compiler that transformers takes names from."""

    def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        return torch._compile._disable_dynamo(fn, recursive)  # the same, at the first call

    def constant(fn: Any) -> Any:
        fn._dynamo_marked_constant = True  # which is all that the compiler does with it
        return fn

    def transform() -> Any:
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        return TransformGetItemToIndex()

    package = ModuleType("torch._dynamo")
    inner = ModuleType("torch._dynamo._trace_wrapped_higher_order_op")
    vars(package).update(__path__=[], disable=disable, assume_constant_result=constant)
    vars(package).update(allow_in_graph=lambda fn: fn)  # put on what fetches kernels for fp8
    vars(inner).update(TransformGetItemToIndex=transform)
    return {module.__name__: module for module in (package, inner)}
