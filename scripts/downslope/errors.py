"""The one exception for bad input: where it is, what is wrong with it, what to do."""

from __future__ import annotations


class StudyError(Exception):
    """Input that a person has to mend before anything can go on.

    `where` names the file and the row or item; `what` says what was found and what was
    expected; `remedy` says what to do. The three read as one sentence after another.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        head = f"{where}: {what}" if where else what
        super().__init__(f"{head.rstrip('.')}. {remedy}".strip() if remedy else head)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between processes.
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


class UnusableFolder(StudyError):
    """A folder of which no repetition will make a model or a tokenizer."""


def _rebuild(kind: type[StudyError], what: str, where: str, remedy: str) -> StudyError:
    return kind(what, where=where, remedy=remedy)
