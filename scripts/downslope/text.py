"""Text as people write it into a study's files: UTF-8, or an error that says where it is not."""

from __future__ import annotations

from pathlib import Path

from downslope.errors import StudyError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without byte-order mark; StudyError where it is not that."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StudyError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            remedy="A study is a folder with config/config.yaml and tables: --directory STUDY.",
        ) from None
    if raw.startswith(b"\xef\xbb\xbf"):
        raise StudyError(
            "starts with a byte-order mark", where=str(path), remedy="Save it as plain UTF-8."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise StudyError(
            f"is not UTF-8 (byte 0x{raw[error.start]:02x})",
            where=f"{path}, line {line}",
            remedy="Save the file in UTF-8.",
        ) from None
