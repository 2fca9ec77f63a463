"""Which pieces of a vocabulary are parts of words, which a pointer copies whole, and which say the same."""

from collections.abc import Iterator

import regex

from memgpt_cli.scripts import UNSPACED
from memgpt_cli.tokenizer.base import EOS, PAD, UNK, Tokenizer

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


def same_words(tokenizer: Tokenizer) -> list[int]:
    """Of each id the number of what it says: pieces that differ only in letter case or in the space before them have one.

    0 for what is no text: padding, the end, what is unknown.
    """
    numbers: dict[str, int] = {}
    out = []
    for i in range(len(tokenizer)):
        piece = tokenizer.piece(i)
        said = piece.strip(" \u2581").casefold() or piece
        out.append(0 if i in (PAD, EOS, UNK) else numbers.setdefault(said, len(numbers) + 1))
    return out
