"""Spans that are copied: what stands in a target and in what is read for it, and is said by no other target by itself.

Names, numbers, values of any kind, found without a word about the data. Words of spaced scripts are taken whole; scripts
without spaces in runs of characters, cut where they are the language's and not the name's.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

import regex

from memgpt_cli.schema import Episode
from memgpt_cli.scripts import UNSPACED

_RUN = regex.compile(rf"[{UNSPACED}]+|[\p{{L}}\p{{M}}\p{{N}}--[{UNSPACED}]]+", regex.V1)
_PART = regex.compile(r"\p{N}+|\P{N}+")  # of a word: "4pm" is 4 and pm
_UNSPACED = regex.compile(rf"[{UNSPACED}]", regex.V1)
BY_ITSELF = 0.01
"""A word that more than this share of its targets say without having read it is the language's."""
COMMON = 0.2
"""So is one that this share of all targets hold."""


def is_unspaced(text: str) -> bool:
    """Whether a text begins in a script without spaces."""
    return _UNSPACED.match(text) is not None


def bearing(answers: Iterable[str]) -> Callable[[str], bool]:
    """Whether one of the answers stands in a text, word for word, letter case aside."""
    wanted = [answer for a in answers if (answer := a.strip().lower())]
    patterns = [regex.compile(regex.escape(a) if is_unspaced(a) else rf"(?<!\w){regex.escape(a)}(?!\w)") for a in wanted]

    def bears(text: str) -> bool:
        low = text.lower()
        return any(a in low and pattern.search(low) for a, pattern in zip(wanted, patterns, strict=True))

    return bears


def units(text: str) -> Iterator[str]:
    """Words and their numbers; of runs of characters without spaces the characters, and the pairs of neighbours."""
    for match in _RUN.finditer(text):
        run = match.group()
        if is_unspaced(run):
            yield from run
            yield from (run[n : n + 2] for n in range(len(run) - 1))
        else:
            yield from {run, *_PART.findall(run)}


def _read(episode: Episode) -> frozenset[str]:
    texts = [entry.text for entry in episode.entries] + [example.input for example in episode.examples]
    return frozenset(unit for text in texts for unit in units(text))


def own_words(episodes: Iterable[Episode]) -> list[str]:
    """The units that targets say by themselves: a language's words, and those of the data's fixed answers."""
    said, alone, targets = Counter[str](), Counter[str](), 0
    for episode in episodes:
        entries = frozenset(unit for entry in episode.entries for unit in units(entry.text))
        for example in episode.examples:
            targets += 1
            mine = set(units(example.target))
            said.update(mine)
            alone.update(mine - entries - set(units(example.input)))
    return sorted(unit for unit, n in said.items() if alone[unit] > BY_ITSELF * n or n > COMMON * targets)


def copied_spans(episode: Episode, own: Collection[str]) -> list[str]:
    """The spans of its targets that are copied, the longest first."""
    read = _read(episode)
    found = {span for example in episode.examples for span in _spans(example.target, read, own)}
    return sorted(found, key=lambda span: (-len(span), span))


def _spans(target: str, read: Collection[str], own: Collection[str]) -> Iterator[str]:
    for match in _RUN.finditer(target):
        run = match.group()
        if not is_unspaced(run):
            parts = _PART.findall(run)
            words = parts if any(part in own for part in parts) else [run]  # of "4pm" the number alone
            yield from (word for word in words if word in read and word not in own and (len(word) > 1 or word.isdigit()))
            continue
        begin = 0
        while begin < len(run) - 1:
            end = begin
            while end < len(run) - 1 and (pair := run[end : end + 2]) in read and pair not in own:
                end += 1
            span = run[begin : end + 1]
            while span and span[0] in own:
                span = span[1:]
            while span and span[-1] in own:
                span = span[:-1]
            if len(span) > 1:
                yield span
            begin = max(end, begin + 1)
