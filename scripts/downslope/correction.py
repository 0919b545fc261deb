"""Corrections for multiple tests, over one declared family within one method."""

from __future__ import annotations

import gc

import numpy as np
from statsmodels.stats.multitest import multipletests

from downslope.panel import FloatArray

# Column of the effects table -> statsmodels' name. Benjamini & Hochberg 1995 is the paper's;
# Benjamini & Yekutieli 2001 holds under any dependence; Holm 1979 bounds the chance of any error.
CORRECTIONS = {"q": "fdr_bh", "q_by": "fdr_by", "p_holm": "holm"}


def corrected(p: FloatArray) -> dict[str, FloatArray]:
    """Corrected p-values of one family: a column per entry of `CORRECTIONS`, shaped like `p`.

    NaN marks an effect that could not be estimated: nothing was tested, so it stays NaN and does
    not count. The number of tests m is the number of p-values present.
    """
    tested = ~np.isnan(p)
    if np.any((p[tested] < 0) | (p[tested] > 1)):
        raise ValueError("p-values must lie between 0 and 1")
    columns = {column: np.full(p.shape, np.nan) for column in CORRECTIONS}
    if not tested.any():
        return columns
    # statsmodels collects garbage at every Holm, a fifth of a second where many libraries are
    # loaded, and a study can have thousands of families: frozen objects are not looked at.
    gc.freeze()
    for column, name in CORRECTIONS.items():
        columns[column][tested] = multipletests(p[tested], method=name)[1]
    gc.unfreeze()
    return columns
