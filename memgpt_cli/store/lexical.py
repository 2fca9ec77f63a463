"""Words of a text as a full-text index wants them, how well they match, and two rankings made one.

Spaced scripts are cut into words, of which the stems count (Porter 2 and its kin of Snowball: English for Latin letters, since
a few words do not tell their language); scripts without spaces, and Korean with its endings, are cut into pairs of characters:
a plain word index finds nothing there, since a whole sentence is one word to it.
"""

import math
import re
import threading
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import regex

from memgpt_cli.scripts import UNSPACED

_RUN = regex.compile(rf"([{UNSPACED}][{UNSPACED}\p{{M}}]*)|[\p{{L}}\p{{N}}\p{{M}}_--[{UNSPACED}]]+", regex.V1)
_ASCII = re.compile(r"[a-z0-9_]+")  # twice as fast as `regex`
_MARKS = dict.fromkeys(range(768, 880))  # accents of Latin, Greek and Cyrillic; vowel signs elsewhere are letters
_LANGUAGE = {"Cyrillic": "russian", "Greek": "greek", "Arabic": "arabic", "Armenian": "armenian", "Devanagari": "hindi", "Tamil": "tamil"}  # fmt: skip
_SCRIPT = regex.compile("|".join(rf"(?P<{script}>[\p{{{script}}}\p{{M}}]+)" for script in _LANGUAGE))
_stemming = threading.Lock()  # a stemmer keeps the word it is at

_EVERYWHERE = re.compile("a|an|and|are|as|at|be|but|by|for|if|in|into|is|it|no|not|of|on|or|such|that|the|their|then|there|these|they|this|to|was|will|with")  # fmt: skip
"""Lucene's English stop words, which the stemmer leaves as they are."""

TERMS = f"2 {version('snowballstemmer')}"
"""Names what `terms` does: an index made otherwise is made anew."""
RRF = 60  # Cormack, Clarke & Büttcher 2009
K1, B = 1.2, 0.75  # Robertson & Zaragoza 2009, as Lucene has them


def _without_accents(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).translate(_MARKS))


def _folded(text: str) -> str:
    """Letter case and width aside."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def normalise(text: str) -> str:
    """Letter case, width and accents aside."""
    return text.lower() if text.isascii() else _without_accents(_folded(text))


@cache
def _stemmer(language: str) -> Any:
    # the class itself: `snowballstemmer.stemmer` gives another implementation's where there is one
    return getattr(import_module(f"snowballstemmer.{language}_stemmer"), f"{language.title()}Stemmer")()


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """What the forms of a folded word have in common, without accents; a word with digits or of two scripts is its own."""
    bare = _without_accents(word)
    latin, other = bare.isascii() and bare.isalpha(), _SCRIPT.fullmatch(word)
    if not latin and not other:
        return bare
    with _stemming:
        found = _stemmer("english").stemWord(bare) if latin else _stemmer(_LANGUAGE[other.lastgroup]).stemWord(word)
    return _without_accents(found) or bare


def terms(text: str) -> list[str]:
    """The terms an entry is found by, in order. A run without spaces gives its pairs, and its last character alone."""
    text = _folded(text)
    if text.isascii():
        return [stem(word) for word in _ASCII.findall(text)]
    out: list[str] = []
    for found in _RUN.finditer(text):
        if found.group(1):
            run = _without_accents(found.group())
            out += [run[n : n + 2] for n in range(len(run))]
        else:
            out.append(stem(found.group()))
    return out


def query_terms(text: str) -> list[str]:
    """Terms to look for, each once; a lone character of an unspaced script ends in `*`: whatever begins with it.

    English words that are everywhere are looked for only where a text has no others.
    """
    out: list[str] = []
    for found in _RUN.finditer(_folded(text)):
        run = _without_accents(found.group())
        if not found.group(1):
            out.append(stem(found.group()))
        elif len(run) == 1:
            out.append(run + "*")
        else:
            out += [run[n : n + 2] for n in range(len(run) - 1)]
    return [term for term in dict.fromkeys(out) if not _EVERYWHERE.fullmatch(term)] or list(dict.fromkeys(out))


def idf(entries: int, holding: int) -> float:
    """What a term tells that `holding` of `entries` hold: above 0 even where it is in every one (as Lucene has it)."""
    return math.log1p((max(entries - holding, 0) + 0.5) / (holding + 0.5))


def bm25(count: np.ndarray, size: np.ndarray, mean: float) -> np.ndarray:
    """How much of a term's `idf` an entry earns that holds it `count` times among its `size` terms; below K1 + 1."""
    return (K1 + 1) * count / (count + K1 * (1 - B + B * size / mean))


def fuse(rankings: Sequence[Sequence[int]], k: int, shares: Sequence[float] = ()) -> list[tuple[int, float]]:
    """Ids of several rankings by the sum of share / (60 + rank), the best `k` first; the earlier id where sums are equal.

    Shares are 1 where none are given (reciprocal rank fusion, Cormack et al., 2009).
    """
    scores: dict[int, float] = {}
    for ranking, share in zip(rankings, shares or [1.0] * len(rankings), strict=True):
        for rank, id in enumerate(ranking, 1):
            scores[id] = scores.get(id, 0.0) + share / (RRF + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
