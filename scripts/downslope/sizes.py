"""Sizes of models as people say them."""

from __future__ import annotations


def size_name(parameters: int) -> str:
    """Parameters in at most three digits and a unit: `25.5k`, `70M`, `1.4B`."""
    rounded = float(f"{parameters:.3g}")  # 999,600 is 1M, not 1e+03k
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= unit:
            return f"{rounded / unit:.3g}{name}"
    return str(parameters)
