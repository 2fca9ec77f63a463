"""Long texts: windows are the examples, everything before a window is memory."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import DataError
from memgpt_cli.ingest.chunk import Cut, chunk_entries, chunks
from memgpt_cli.ingest.text import open_bytes, read_blocks, read_lines
from memgpt_cli.schema import Entry, Episode, Example


@dataclass(frozen=True)
class TextOptions:
    """
    window: characters of an input and of a target; chunk: characters of an entry.
    memory: how many characters before the input may stand in memory, 0 for all.
    document: characters of an episode (a book is cut into such parts), 0 for the whole text.
    """

    window: int = 400
    chunk: int = 400
    memory: int = 4000
    document: int = 20000


def text_episodes(name: str, blocks: Iterable[str], options: TextOptions) -> Iterator[Episode]:
    """Windows of a text that comes in blocks: each continues the one before it; what lies before that is memory."""
    part = 0
    for block in blocks:
        for _, document in chunks(block, Cut(options.document)) if options.document else [(0, block)]:
            yield from _document(f"{name}:{part}", document, options, part)
            part += 1


def _document(name: str, text: str, options: TextOptions, part: int) -> Iterator[Episode]:
    windows = [piece for _, piece in chunks(text, Cut(max(8, options.window))) if piece.strip()]
    entries: list[Entry] = []
    first: list[int] = []  # the entry each window begins at
    for window in windows:
        first.append(len(entries))
        entries += chunk_entries(window, options.chunk, part=part)
    examples = [Example(windows[n], windows[n + 1], first[n], task="text") for n in range(len(windows) - 1)]
    if not options.memory:
        yield from _episode(name, entries, examples)
        return
    # with a bounded memory, runs of windows share the memory of `memory` characters before their last one
    step = max(1, options.memory // max(1, options.window))
    for begin in range(0, len(examples), step):
        low = first[max(0, begin - step)]
        run = [Example(x.input, x.target, x.sees - low, task="text") for x in examples[begin : begin + step]]
        high = max((x.sees for x in run), default=0)
        yield from _episode(f"{name}:{begin}", entries[low : low + high], run)


def _episode(name: str, entries: list[Entry], examples: list[Example]) -> Iterator[Episode]:
    if examples:
        yield Episode(name, tuple(entries), tuple(examples), {"document": name.split(":")[0]})


def read_plain(path: Path, options: TextOptions, where: Where) -> Iterator[Episode]:
    """A plain text file, UTF-8; a block of it in memory at a time (all of it with `document: 0`)."""
    blocks = (block for _, block in read_blocks(path, where.reject))
    yield from text_episodes(path.stem, blocks if options.document else ["\n".join(blocks)], options)


_WIKI_TITLE = re.compile(r" = [^=].*[^=] = ")


def read_wikitext(path: Path, options: TextOptions, where: Where) -> Iterator[Episode]:
    """WikiText (arXiv 1609.07843): one file of articles under ` = Title = ` lines; each article is a text of its own."""
    title, lines = "", list[str]()
    for number, line in read_lines(path, where.reject):
        if _WIKI_TITLE.fullmatch(line):
            yield from _article(path, title, lines, options)
            title, lines = line.strip(" ="), []
        elif not title and line.strip():
            where.reject(DataError("text before the first title", path, number), line[:1000])
            continue
        lines.append(line)
    if not title:
        raise DataError("no article found: expected titles in lines such as ' = Title = '", path)
    yield from _article(path, title, lines, options)


def _article(path: Path, title: str, lines: list[str], options: TextOptions) -> Iterator[Episode]:
    if title:
        yield from text_episodes(f"{path.stem}/{title}", ["\n".join(lines) + "\n"], options)


def read_eltec(path: Path, options: TextOptions, where: Where) -> Iterator[Episode]:
    """ELTeC novels (TEI XML): the text of the body's headings and paragraphs, without mark-up, notes and front matter."""
    space = "{http://www.tei-c.org/ns/1.0}"
    try:
        with open_bytes(path) as raw:
            root = ElementTree.parse(raw).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # an unknown encoding is a LookupError
        line = error.position[0] if isinstance(error, ElementTree.ParseError) else None
        raise DataError("broken XML", path, line) from error
    body = root.find(f".//{space}body")
    if body is None:
        raise DataError("no TEI <body> found", path)
    paragraphs = []
    for element in body.iter():
        if element.tag in (f"{space}head", f"{space}p", f"{space}l"):
            words = " ".join("".join(_visible(element, space)).split())
            if words:
                paragraphs.append(words)
    yield from text_episodes(path.stem, ["\n".join(paragraphs)], options)


def _visible(element: ElementTree.Element, space: str) -> Iterator[str]:
    """The text of an element without its notes."""
    yield element.text or ""
    for child in element:
        if child.tag not in (f"{space}note", f"{space}p", f"{space}l"):
            yield from _visible(child, space)
        yield child.tail or ""


TEXT, WIKITEXT = Source(read_plain, TextOptions), Source(read_wikitext, TextOptions)
ELTEC = Source(read_eltec, TextOptions)
