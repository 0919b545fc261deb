"""SIGTERM as an exception: what a block does at its end is done before the process ends."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator


class Terminated(SystemExit):
    """SIGTERM came (scancel, a time limit, a person)."""


@contextlib.contextmanager
def terminated_in_order() -> Iterator[None]:
    """Raise Terminated, with status 143, where the block is when SIGTERM comes.

    Only the main thread can handle signals; in another one nothing changes, nor inside another
    block of this kind.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is _end:
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except Terminated:
        log = logging.getLogger("downslope")
        log.warning("ended by SIGTERM, as by scancel, a time limit or a person")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(*_: object) -> None:
    # SLURM and a terminal may send it again; what is being saved is to be saved.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated(128 + signal.SIGTERM)
