"""Products of a CPU: by oneDNN where MKL leaves half of the processor idle.

torch multiplies float32 matrices by MKL, which takes AVX-512 on Intel's processors and AVX2 on all
others. oneDNN, which torch brings along too, takes what the processor has: 2.0 to 2.6 times the
rate on an AMD EPYC with AVX-512, over the shapes of a 70m and a 410m model. Its sums of 2,048
products are about twice as far from exact ones as MKL's, which is rounding still (a root mean
square of 6e-7). With AVX2 the two are alike (0.9 to 1.1 times), and torch's own products stay.

The rule looks at the processor, not at the clock: a machine gives the same bytes every time. Only
Linux says whose processor it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from downslope.process import processor


@cache
def by_onednn() -> bool:
    """Whether this machine's products are oneDNN's: AVX-512 on a processor that is not Intel's."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and processor("vendor_id") not in ("", "GenuineIntel")
        and torch.backends.mkl.is_available()  # builds without it multiply by other libraries
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def onednn_multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `product` of such tensors is oneDNN's; of others it is torch's own."""
    return dtype == torch.float32 and device.type == "cpu" and by_onednn()


def product(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """(..., inner) rows times (outer, inner) weight: (..., outer), without gradients.

    Of a bias, oneDNN reads as many numbers as there are columns, wherever they lie.
    """
    if rows.dtype == weight.dtype and onednn_multiplies(rows.dtype, rows.device):
        # What torch's own compiler makes of a linear layer on such a CPU.
        laid_out = None if bias is None else bias.contiguous()
        return torch.ops.mkldnn._linear_pointwise(rows, weight, laid_out, "none", [], "")
    return torch.nn.functional.linear(rows, weight, bias)


def take_products(model: Any) -> Callable[[], None]:
    """From here on the linear layers of a model multiply by `product`, until the returned function
    is called; once at a time for a model. Layers of other kinds stay as they are, those derived
    from linear ones and experts that multiply by themselves too."""
    if not by_onednn():
        return lambda: None
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight transposed

    taken = [module for module in model.modules() if type(module) in (torch.nn.Linear, Conv1D)]
    taken = [module for module in taken if "forward" not in vars(module)]  # others were there first
    for module in taken:
        module.forward = partial(_linear, module, isinstance(module, Conv1D))

    def give_back() -> None:
        for module in taken:
            del module.forward

    return give_back


def _linear(module: Any, transposed: bool, rows: torch.Tensor) -> torch.Tensor:
    return product(rows, module.weight.T if transposed else module.weight, module.bias)
