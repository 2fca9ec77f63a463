"""Long texts: windows are the examples, everything before a window is memory."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from memgpt_cli.data.sources import Where
from memgpt_cli.errors import DataError
from memgpt_cli.ingest.chunk import chunk, chunk_entries
from memgpt_cli.ingest.text import open_bytes, read_text
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


def text_episodes(name: str, text: str, options: TextOptions) -> Iterator[Episode]:
    """Windows of a text: each continues the one before it; what lies before that is memory."""
    size = options.document or len(text) or 1
    for part, (_, document) in enumerate(chunk(text, size)):
        windows = [piece for _, piece in chunk(document, options.window) if piece.strip()]
        entries: list[Entry] = []
        first: list[int] = []  # the entry each window begins at
        for window in windows:
            first.append(len(entries))
            entries += chunk_entries(window, options.chunk, part=part)
        examples = [Example(windows[n], windows[n + 1], first[n], task="text") for n in range(len(windows) - 1)]
        if not options.memory:
            yield from _episode(f"{name}:{part}", entries, examples)
            continue
        # with a bounded memory, runs of windows share the memory of `memory` characters before their last one
        step = max(1, options.memory // max(1, options.window))
        for begin in range(0, len(examples), step):
            low = first[max(0, begin - step)]
            run = [Example(x.input, x.target, x.sees - low, task="text") for x in examples[begin : begin + step]]
            high = max((x.sees for x in run), default=0)
            yield from _episode(f"{name}:{part}:{begin}", entries[low : low + high], run)


def _episode(name: str, entries: list[Entry], examples: list[Example]) -> Iterator[Episode]:
    if examples:
        yield Episode(name, tuple(entries), tuple(examples), {"document": name.split(":")[0]})


def read_plain(path: Path, options: TextOptions, where: Where) -> Iterator[Episode]:
    """A plain text file, UTF-8."""
    yield from text_episodes(path.stem, read_text(path), options)


_WIKI_TITLE = re.compile(r"^ = [^=].*[^=] = $", re.MULTILINE)


def read_wikitext(path: Path, options: TextOptions, where: Where) -> Iterator[Episode]:
    """WikiText (arXiv 1609.07843): one file of articles under ` = Title = ` lines; each article is a text of its own."""
    text = read_text(path)
    starts = [m.start() for m in _WIKI_TITLE.finditer(text)]
    if not starts:
        raise DataError("no article found: expected titles in lines such as ' = Title = '", path)
    if text[: starts[0]].strip():
        where.reject(DataError("text before the first title", path, 1), text[: starts[0]][:1000])
    for begin, end in zip(starts, [*starts[1:], len(text)], strict=True):
        article = text[begin:end]
        title = article.split("\n", 1)[0].strip(" =")
        yield from text_episodes(f"{path.stem}/{title}", article, options)


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
    yield from text_episodes(path.stem, "\n".join(paragraphs), options)


def _visible(element: ElementTree.Element, space: str) -> Iterator[str]:
    """The text of an element without its notes."""
    yield element.text or ""
    for child in element:
        if child.tag not in (f"{space}note", f"{space}p", f"{space}l"):
            yield from _visible(child, space)
        yield child.tail or ""
