"""Tokenizers: loading from a folder, encoding in bulk, and a digest of what they do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from downslope.errors import UnusableFolder
from downslope.files import sha256, sha256_text

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")
"""Files that carry a vocabulary. Any of them makes a folder usable as a tokenizer."""

_PROBE = (
    "It's 12345, not 3.14: they'VE said (twice) 100,000; I'll ask x_y@z.org.",
    " A line\n\n  and \tanother, indented\r\n    by four ",
    "naïve Cafe\u0301 — “quotes”… ﬁne ½ İstanbul\u00a0\u200b#1",
    "日本語 한국어 русский العربية ١٢ 🙂",
    "camelCaseTEXT",
)
"""Text in which tokenizers differ that read the same files: digits, contractions, white space,
accents in one character and in two, other scripts. No special token by its name: a file that says
how to pad may make one of it."""


def tokenizer_digest(folder: Path) -> str:
    """sha256 of what a tokenizer does, not of how its files are laid out.

    That is its vocabulary and rules, and how it splits a fixed text: the library takes one class
    for a file beside a Qwen model and another for the same file beside a GPT-NeoX. Formatting,
    padding and truncation settings of `tokenizer.json` do not count, so that the revisions of one
    training run agree although tools rewrote the file in between.
    Raises UnusableFolder where the folder holds no tokenizer, or none that can be read.
    """
    return FolderTokenizer(folder).digest


def _contents(folder: Path) -> list[Any]:
    """What a folder's vocabulary files hold."""
    rich = folder / "tokenizer.json"
    if rich.is_file():
        try:
            content = json.loads(rich.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnusableFolder(f"is not JSON ({error})", where=str(rich)) from None
        return [{k: v for k, v in content.items() if k not in ("padding", "truncation")}]
    found = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not found:
        raise UnusableFolder(
            "holds no tokenizer",
            where=str(folder),
            remedy=f"Put the model's own tokenizer beside its weights: {TOKENIZER_FILES[0]}.",
        )
    return [[name, sha256(folder / name)] for name in found]


class FolderTokenizer:
    """A Hugging Face tokenizer read from a folder; calling it encodes texts in bulk.

    No code of the folder is run and nothing is fetched. `digest` is `tokenizer_digest`'s.
    """

    def __init__(self, folder: Path) -> None:
        contents = _contents(folder)
        from downslope.lean_imports import import_transformers

        import_transformers()
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # of any kind, from the library and from what it is written in
            if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
                raise  # the machine's fault, not the folder's
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise UnusableFolder(
                f"its tokenizer cannot be loaded ({first})", where=str(folder)
            ) from error
        splits = [self._tried(text, special) for text in _PROBE for special in (False, True)]
        text = json.dumps([contents, splits], sort_keys=True, ensure_ascii=False)
        self.digest = sha256_text(text)

    def _tried(self, text: str, special: bool) -> list[int] | None:
        """Token ids, or None where the tokenizer knows no way of writing this text."""
        try:
            return self([text], special_tokens=special)[0]
        except Exception:
            return None

    def __call__(self, texts: Sequence[str], *, special_tokens: bool) -> list[list[int]]:
        """Token ids of each text; equal texts are encoded once."""
        distinct = list(dict.fromkeys(texts))
        ids: list[list[int]] = []
        for first in range(0, len(distinct), 4096):
            batch = distinct[first : first + 4096]
            ids.extend(
                self._tokenizer(
                    batch,
                    add_special_tokens=special_tokens,
                    return_attention_mask=False,
                    verbose=False,
                )["input_ids"]
            )
        encoded = dict(zip(distinct, ids, strict=True))
        return [encoded[text] for text in texts]
