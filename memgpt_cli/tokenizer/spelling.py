"""Which pieces of a vocabulary are parts of words: what a pointer needs to know to copy words whole."""

from collections.abc import Iterator

import regex

from memgpt_cli.scripts import UNSPACED
from memgpt_cli.tokenizer.base import Tokenizer

_BYTE = regex.compile(r"<0x([0-9A-F]{2})>")
_LETTER = regex.compile(rf"[\p{{L}}\p{{M}}\p{{N}}--[{UNSPACED}]]", regex.V1)
_CHINESE_LEADS = range(0xE3, 0xEA)  # first bytes of most characters that are words by themselves


def word_parts(tokenizer: Tokenizer) -> Iterator[tuple[bool, bool]]:
    """Of each id: whether it goes on a word that ends before it, and whether a word that it ends may go on.

    In scripts without spaces every character is taken for a word; bytes belong to the character they are part of.
    """
    for i in range(len(tokenizer)):
        piece = tokenizer.piece(i)
        byte = int(found[1], 16) if (found := _BYTE.fullmatch(piece)) else 0
        if byte >= 0x80:
            yield byte not in _CHINESE_LEADS, True
        else:
            piece = chr(byte) if byte else piece
            yield _LETTER.match(piece) is not None, bool(piece) and _LETTER.match(piece[-1]) is not None
