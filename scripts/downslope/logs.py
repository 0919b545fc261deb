"""One log per job: the file that the rule names and the terminal, errors included."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from downslope.errors import StudyError

_FORMAT = "%(asctime)s %(message)s"


@contextlib.contextmanager
def log_to(path: str | Path | None) -> Iterator[logging.Logger]:
    """Send the log of the enclosed block to `path` and to standard error.

    A StudyError ends the process with status 1 and its one sentence: it concerns the input,
    and a traceback would hide what to do. Every other exception is written to the log with
    its traceback and raised again.
    """
    formatter = logging.Formatter(_FORMAT, datefmt="%H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"")
        # Appending: where two jobs have the same log, neither writes over the other's lines.
        handlers.append(_LogFile(path, mode="a", encoding="utf-8"))
    root, log = logging.getLogger(), logging.getLogger("downslope")
    # Libraries are heard when they warn; what they do at other times is their affair.
    log.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    try:
        yield log
    except StudyError as error:
        log.error("%s", error)
        raise SystemExit(1) from None
    except Exception:
        log.exception("stopped by an error that is not about the input")
        raise
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()


class _LogFile(logging.FileHandler):
    """A log whose lines are at the terminal alone while its disk is full: a traceback for each of
    them would bury what the job has to say about it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class Progress:
    """Lines such as `scored 329 of 500 requests (66%), 82.0/s, 2 s left`, at most one a period.

    Whole lines without carriage returns, one a minute by default, the first one sooner: jobs
    share a terminal, and a log file is watched with `tail -f`. What `more` says ends each line.
    """

    def __init__(
        self, what: str, total: int, *, noun: str, period: float = 60.0, soon: float = 10.0
    ) -> None:
        self.what, self.total, self.noun, self.period = what, total, noun, period
        self.more: Callable[[], str] = str
        self._done = 0
        self._start = time.monotonic()
        self._next = self._start + min(soon, period)
        self._log = logging.getLogger("downslope")

    def advance(self, count: int) -> None:
        """Report that `count` more are finished; writes when it is time, and at the end."""
        self._done += count
        now = time.monotonic()
        if now < self._next and self._done < self.total:
            return
        self._next = now + self.period
        rate = self._done / max(now - self._start, 1e-9)
        left = (self.total - self._done) / rate if rate > 0 else float("inf")
        share = self._done / self.total if self.total else 1.0
        tail = "" if self._done >= self.total else f", {duration(left)} left"
        self._log.info(
            "%s %d of %d %s (%.0f%%), %.1f/s%s%s",
            *(self.what, self._done, self.total, self.noun, 100 * share, rate, tail, self.more()),
        )


def duration(seconds: float) -> str:
    """Seconds as a person says them: `48 s`, `12 min`, `3 h 20 min`."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
