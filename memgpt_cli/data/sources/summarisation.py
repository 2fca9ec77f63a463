"""Summaries: the document's chunks are entries; the input is a query or the document's head."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.dialogue import render_turn
from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import DataError
from memgpt_cli.ingest.chunk import chunk_entries
from memgpt_cli.ingest.json_values import read_json_records, text_field
from memgpt_cli.schema import Entry, Episode, Example


@dataclass(frozen=True)
class DocumentOptions:
    """
    document, summary, query: fields; without a query the input is the document's first `head` characters.
    chunk: characters of an entry at most.
    """

    document: str = "document"
    summary: str = "summary"
    query: str = "query"
    head: int = 300
    chunk: int = 400


@dataclass(frozen=True)
class DialogueDocumentOptions:
    """
    turns: messages of an entry; head: messages of the input where there is no query (the newest, the older are memory).
    queries: for QMSum: all | general | specific.
    """

    turns: int = 1
    head: int = 4
    queries: str = "all"
    chunk: int = 600


def read_documents(path: Path, options: DocumentOptions, where: Where) -> Iterator[Episode]:
    """JSON or JSONL records with a document, a summary (or a list of them) and perhaps a query."""

    def make(number: int, record: dict[str, Any]) -> Episode:
        text = text_field(record, options.document)
        entries = chunk_entries(text, options.chunk)
        summaries = record.get(options.summary)
        references = tuple(summaries) if isinstance(summaries, list) else (text_field(record, options.summary),)
        asked = record.get(options.query) or text[: options.head]
        if not references or not all(isinstance(r, str) for r in (*references, asked)):
            raise DataError(f"'{options.summary}' is no text or list of texts")
        example = Example(asked, references[0], len(entries), references, task="summarisation")
        return Episode(f"{path.name}:{number}", tuple(entries), (example,))

    yield from where.each(read_json_records(path, where.reject), path, make)


def _turns(messages: list[str], size: int, chars: int) -> list[Entry]:
    """Messages as entries, `size` of them in one; a long one is cut into chunks."""
    entries: list[Entry] = []
    for first in range(0, len(messages), size):
        text = "\n".join(messages[first : first + size])
        entries += [Entry(e.text, "turn", {"message": first}) for e in chunk_entries(text, chars)]
    return entries


def read_dialogsum(path: Path, options: DialogueDocumentOptions, where: Where) -> Iterator[Episode]:
    """DialogSum (Chen et al., ACL Findings 2021). The test files' three summaries are three references."""

    def make(number: int, record: dict[str, Any]) -> Episode:
        messages = [line for line in text_field(record, "dialogue").split("\n") if line.strip()]
        references = tuple(text_field(record, k) for k in ("summary", "summary1", "summary2", "summary3") if k in record)
        if not references or not messages:
            raise DataError("field 'summary' is missing" if messages else "field 'dialogue' is empty")
        entries = _turns(messages, options.turns, options.chunk)
        head = "\n".join(messages[: options.head])
        example = Example(f"summarize: {head}", references[0], len(entries), references, task="summarisation")
        return Episode(f"{path.name}:{number}", tuple(entries), (example,), {"id": record.get("fname", "")})

    yield from where.each(read_json_records(path, where.reject), path, make)


def read_qmsum(path: Path, options: DialogueDocumentOptions, where: Where) -> Iterator[Episode]:
    """QMSum (arXiv 2104.05938): queries over meetings; the spans a query names are its evidence."""
    rows = read_json_records(path, where.reject)
    yield from where.each(rows, path, lambda number, record: _meeting(f"{path.stem}:{number}", record, options))


def _meeting(name: str, record: dict[str, Any], options: DialogueDocumentOptions) -> Episode:
    transcript = record.get("meeting_transcripts")
    if not isinstance(transcript, list):
        raise DataError("field 'meeting_transcripts' is missing or no list")
    messages = [render_turn(text_field(m, "speaker"), text_field(m, "content")) for m in transcript]
    entries = _turns(messages, options.turns, options.chunk)
    wanted = ("general", "specific") if options.queries == "all" else (options.queries,)
    examples = []
    for kind in wanted:
        for query in record.get(f"{kind}_query_list", ()):
            spans = [(int(a), int(b)) for a, b in query.get("relevant_text_span", ())]
            evidence = [n for n, e in enumerate(entries) if any(a <= e.meta["message"] <= b for a, b in spans)]
            answer = text_field(query, "answer")
            examples.append(
                Example(text_field(query, "query"), answer, len(entries), evidence=tuple(evidence), task="summarisation")
            )
    return Episode(name, tuple(entries), tuple(examples), {"meeting": name})


SUMMARISATION = Source(read_documents, DocumentOptions)
DIALOGSUM, QMSUM = Source(read_dialogsum, DialogueDocumentOptions), Source(read_qmsum, DialogueDocumentOptions)
