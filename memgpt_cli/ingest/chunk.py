"""Cutting documents into entries, with a record of where each piece came from. Time grows with the text, not faster."""

import re
from collections.abc import Callable, Iterator

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


def chunk(text: str, chars: int) -> list[tuple[int, str]]:
    """Pieces of at most `chars` characters, cut at paragraphs, then sentences, then words; (offset, piece) in order.

    Joined again, the pieces are the text.
    """
    pieces: list[str] = []
    for piece in split_text(text, lambda part: len(part) <= chars):
        if pieces and (len(pieces[-1]) + len(piece) <= chars or not piece.strip()):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    offset, out = 0, []
    for piece in pieces:
        out.append((offset, piece))
        offset += len(piece)
    return out


def chunk_entries(text: str, chars: int, **meta: object) -> list[Entry]:
    """Chunks as entries without the white space around them; the offset of each is kept."""
    return [Entry(piece.strip(), "chunk", {**meta, "offset": offset}) for offset, piece in chunk(text, chars) if piece.strip()]


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


def overlapping(text: str, chars: int, overlap: int) -> Iterator[tuple[int, str]]:
    """Chunks of whole sentences, up to `chars` characters, each beginning with the last `overlap` sentences of the one
    before; (offset, chunk) in order. A longer sentence is cut at words.

    Nothing but white space is left out: every character of the text is in a chunk.
    """
    parts: list[tuple[int, str]] = []
    for offset, sentence in sentences(text):
        parts += [(offset + at, piece) for at, piece in chunk(sentence, chars)]
    first = 0
    while first < len(parts):
        last, size = first, 0
        while last < len(parts) and (last == first or size + len(parts[last][1].rstrip()) <= chars):
            size += len(parts[last][1])
            last += 1
        offset, end = parts[first][0], parts[last - 1][0] + len(parts[last - 1][1])
        piece = text[offset:end]
        if piece.strip():
            yield offset + len(piece) - len(piece.lstrip()), piece.strip()
        if last == len(parts):
            return
        first = max(first + 1, last - overlap)
        while first < last and 2 * (end - parts[first][0]) > chars:
            first += 1  # at most half of a chunk is said twice, so that chunks stay few
        while first < last and parts[last][0] + len(parts[last][1].rstrip()) - parts[first][0] > chars:
            first += 1  # the overlap gives way where the next sentence would not fit beside it
