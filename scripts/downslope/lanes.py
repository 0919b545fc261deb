"""Packs side by side on a CPU, each on its share of the threads.

The threads that share one product wait for the slowest of them at its end, and between products
they wait for memory. Two forward passes on one half of the threads each wait less: while one waits,
the other computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

LANES = 2
"""Each lane more holds one more pack's activations; more than two have not been tried."""


def lanes_for(threads: int, device: str) -> int:
    """How many lanes a scoring process with so many threads has: one on a GPU, which computes one
    launch after another, and where the lanes' shares would leave a thread idle."""
    return LANES if device == "cpu" and threads % LANES == 0 else 1


@contextmanager
def lanes(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """Inside, what is submitted runs in `count` threads, begun in the order of submission; torch
    has its number of threads divided by `count` for each of them, and as many elsewhere.

    At the end, what has not begun is dropped, and what has is waited for.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    torch.set_num_threads(share)  # here, and in threads that begin from here on
    workers = ThreadPoolExecutor(count, "lane")
    try:
        yield workers.submit
    finally:
        workers.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)
