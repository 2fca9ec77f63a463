"""Cutting documents into entries, with a record of where each piece came from. Time grows with the text, not faster."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memgpt_cli.errors import UsageError
from memgpt_cli.schema import Entry

_BOUNDARIES = (re.compile(r"\n+"), re.compile(r"(?<=[.!?。！？；])\s*"), re.compile(r"\s+|(?<=[，、：])"))


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Cuts text into pieces that fit, nearest to the middle at the best boundary there is: line, sentence, word, character.

    Joined again, the pieces are the text, and none is only white space (a law the tests hold).
    """
    pieces, left = [], [(text, 0)]
    while left:
        part, rank = left.pop()
        if len(part) < 2 or fits(part):
            pieces.append(part)
            continue
        cut = 0
        while rank <= len(_BOUNDARIES) and not (cut := _nearest_cut(part, rank)):
            rank += 1  # what a part has no line ends for, its parts have none for either
        if cut:
            left += [(part[cut:], rank), (part[:cut], rank)]
        else:
            pieces.append(part)
    return pieces


def _nearest_cut(text: str, rank: int) -> int:
    """The boundary of this rank nearest to the middle, with more than white space on both sides; 0 where there is none."""
    first, last, middle = len(text) - len(text.lstrip()), len(text.rstrip()), len(text) / 2
    if rank == len(_BOUNDARIES):  # between any two characters
        for step in range(len(text)):
            for place in (len(text) // 2 - step, (len(text) + 1) // 2 + step):
                if first < place < last and text[place] != "\n":
                    return place
        return 0
    places = (m.end() for m in _BOUNDARIES[rank].finditer(text))
    return min((place for place in places if first < place < last), key=lambda place: abs(place - middle), default=0)


_ABBREVIATION = 12  # characters of the longest, and more
_ABBREVIATED = re.compile(r"\b(?:[A-Z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|No|Fig|cf|approx)\.$")
# a run of full stops is tried once, from its beginning: possessive, else 50,000 of them take a minute
_SENTENCE_END = re.compile(
    r"""(?<![.!?])[.!?]++["'”’»)\]]*+\s+|[。！？；…]+["'”’」』）】》]*\s*|\n\s*\n\s*|\n(?=\s*[#*+\-•]|\s*\d+[.)])"""
)


def sentences(text: str) -> list[tuple[int, str]]:
    """Sentences (and paragraphs, headings, list items) with the white space after them; (offset, sentence) in order."""
    out, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        if end.group().startswith(".") and _ABBREVIATED.search(text, max(start, end.start() - _ABBREVIATION), end.start() + 1):
            continue
        out.append((start, text[start : end.end()]))
        start = end.end()
    if start < len(text):
        out.append((start, text[start:]))
    return out


@dataclass(frozen=True)
class Cut:
    """How text is cut: into whole sentences up to `most`, as `measure` counts them; a longer sentence is cut at words.

    overlap: the last sentences of a chunk that begin the next one as well, where it has room for them.
    typical: paragraphs are only joined up to this size, or to a heading (a quarter of it); 0 joins them up to `most`.
    measure: of a text: its characters, or its tokens.
    """

    most: int = 600
    overlap: int = 0
    typical: int = 0
    measure: Callable[[str], int] = len
    unit: str = "characters"

    def __post_init__(self) -> None:
        if not 8 <= self.most <= 1 << 20 or self.overlap < 0:
            raise UsageError(
                f"chunks of {self.most} {self.unit}, overlap {self.overlap}: expected at least 8, at most {1 << 20:,}, and 0 or more"
            )


class _Part(NamedTuple):
    """A sentence, or a piece of one that is too long."""

    start: int
    end: int
    size: int
    begins: bool  # a paragraph


_WRAPPED = re.compile(r"[^\s.!?。！？；…:\"'”’)\]]\n(?!\s*\n)(?=[^\s#*+\-•\d])")
_ITEM = re.compile(r"\s*(?:[#*+\-•]|\d+[.)])")


def _parts(text: str, cut: Cut) -> list[_Part]:
    """Sentences, cut where they are too long. A paragraph begins behind a blank line and with a heading or an item; and in a
    text whose lines are not wrapped, with every line."""
    parts, begins, lines = [], True, 2 if _WRAPPED.search(text) else 1
    for offset, sentence in sentences(text):
        pieces = split_text(sentence, lambda part: cut.measure(part.strip()) <= cut.most)
        for piece in pieces:
            parts.append(_Part(offset, offset + len(piece), cut.measure(piece.strip()), begins))
            offset, begins = offset + len(piece), False
        breaks = sentence.count("\n", len(sentence.rstrip()))
        begins = breaks >= lines or bool(breaks and _ITEM.match(text, offset))
    return parts


def chunks(text: str, cut: Cut) -> Iterator[tuple[int, str]]:
    """(offset, chunk) in order. Without overlap the chunks are the text when they are joined again; with it nothing is
    left out either. White space around a chunk is its own, and not counted."""
    parts = _parts(text, cut)
    first = 0
    while first < len(parts):
        last = _last(text, parts, first, cut)
        yield parts[first].start, text[parts[first].start : parts[last - 1].end]
        if last == len(parts):
            return
        again = max(first + 1, last - cut.overlap)
        while again < last and not _fits_again(text, parts, again, last, cut):
            again += 1
        first = again


def _last(text: str, parts: Sequence[_Part], first: int, cut: Cut) -> int:
    """The part after the last one of a chunk that begins with part `first`."""
    last, size = first + 1, parts[first].size
    while last < len(parts):
        part = parts[last]
        heading = size <= cut.typical / 4
        if cut.typical and part.begins and not heading and size + _paragraph(parts, last) > cut.typical:
            break
        grown = (
            cut.measure(text[parts[first].start : part.end].strip()) if size + part.size > cut.most // 2 else size + part.size
        )
        if grown > cut.most:
            break
        last, size = last + 1, grown
    return last


def _paragraph(parts: Sequence[_Part], first: int) -> int:
    """The size of the paragraph that begins with a part."""
    size, n = parts[first].size, first + 1
    while n < len(parts) and not parts[n].begins:
        size, n = size + parts[n].size, n + 1
    return size


def _fits_again(text: str, parts: Sequence[_Part], again: int, last: int, cut: Cut) -> bool:
    """Whether a chunk may begin with a part of the one before: at most half of a chunk is said twice, so that chunks stay
    few, and the next sentence has room beside it."""
    said = cut.measure(text[parts[again].start : parts[last - 1].end].strip())
    return 2 * said <= cut.most and cut.measure(text[parts[again].start : parts[last].end].strip()) <= cut.most


def chunk_entries(text: str, most: int, **meta: object) -> list[Entry]:
    """Chunks of at most `most` characters as entries, without the white space around them; the offset of each is kept."""
    found = chunks(text, Cut(max(8, most)))
    return [Entry(piece.strip(), "chunk", {**meta, "offset": offset}) for offset, piece in found if piece.strip()]
