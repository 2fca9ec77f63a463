"""Words of a text as a full-text index wants them, and two rankings made one.

Spaced scripts are cut into words; scripts without spaces, and Korean with its endings, into pairs of characters: a plain
word index finds nothing there, since a whole sentence is one word to it.
"""

import re
import unicodedata
from collections.abc import Sequence

import regex

from memgpt_cli.scripts import UNSPACED

_RUN = regex.compile(rf"([{UNSPACED}][{UNSPACED}\p{{M}}]*)|[\p{{L}}\p{{N}}\p{{M}}_--[{UNSPACED}]]+", regex.V1)
_ASCII = re.compile(r"[a-z0-9_]+")  # twice as fast as `regex`
_MARKS = dict.fromkeys(range(768, 880))  # accents of Latin, Greek and Cyrillic; vowel signs elsewhere are letters

RRF = 60  # Cormack, Clarke & Büttcher 2009


def normalise(text: str) -> str:
    """Letter case, width and accents aside."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(_MARKS))


def terms(text: str) -> list[str]:
    """The terms an entry is found by, in order. A run without spaces gives its pairs, and its last character alone."""
    text = normalise(text)
    if text.isascii():
        return _ASCII.findall(text)
    out: list[str] = []
    for found in _RUN.finditer(text):
        run = found.group()
        if found.group(1):
            out += [run[n : n + 2] for n in range(len(run))]
        else:
            out.append(run)
    return out


def query_terms(text: str) -> list[str]:
    """Terms to look for, each once; a lone character of an unspaced script ends in `*`: whatever begins with it."""
    out: list[str] = []
    for found in _RUN.finditer(normalise(text)):
        run = found.group()
        if not found.group(1):
            out.append(run)
        elif len(run) == 1:
            out.append(run + "*")
        else:
            out += [run[n : n + 2] for n in range(len(run) - 1)]
    return list(dict.fromkeys(out))


def fuse(rankings: Sequence[Sequence[int]], k: int) -> list[tuple[int, float]]:
    """Ids of several rankings by the sum of 1 / (60 + rank), the best `k` first; the earlier id where sums are equal."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, id in enumerate(ranking, 1):
            scores[id] = scores.get(id, 0.0) + 1 / (RRF + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
