"""Question answering: SQuAD-style passages, and the bAbI stories."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import DataError
from memgpt_cli.ingest.chunk import chunk_entries
from memgpt_cli.ingest.json_values import parse_json, text_field
from memgpt_cli.ingest.text import read_lines, read_text
from memgpt_cli.schema import Entry, Episode, Example


@dataclass(frozen=True)
class PassageOptions:
    """
    chunk: characters of an entry at most.
    per: passage (an episode is one passage) | article (all the passages of an article: the right one must be found).
    """

    chunk: int = 300
    per: str = "article"


def read_squad(path: Path, options: PassageOptions, where: Where) -> Iterator[Episode]:
    """SQuAD v1.1 JSON (arXiv 1606.05250), as CMRC 2018 and DRCD use it too; answer spans give the evidence.

    Places are numbers of articles (or of passages, where they are the episodes), from 1.
    """
    try:
        data = parse_json(read_text(path), lines=True)
    except DataError as error:
        raise error.at(path) from error
    articles = data.get("data") if isinstance(data, dict) else None
    if not isinstance(articles, list):
        raise DataError("expected an object with a list 'data'", path)

    def groups() -> Iterator[tuple[int, list[Any]]]:
        count = 0
        for number, article in enumerate(articles, 1):
            paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
            if not isinstance(paragraphs, list):
                where.reject(DataError("expected an article with a list 'paragraphs'", path, number), article)
            else:
                for group in [[p] for p in paragraphs] if options.per == "passage" else [paragraphs] if paragraphs else []:
                    count += 1
                    yield (count if options.per == "passage" else number), group

    def make(number: int, group: list[Any]) -> Episode:
        bad: list[tuple[DataError, Any]] = []
        episode = _passages(f"{path.name}:{number}", group, options, bad)
        for problem, question in bad:
            where.reject(problem.at(path, number), question)
        return episode

    for episode in where.each(groups(), path, make):
        if episode.examples:  # else each of its questions has been rejected already
            yield episode


def _passages(
    name: str, paragraphs: list[dict[str, Any]], options: PassageOptions, bad: list[tuple[DataError, Any]]
) -> Episode:
    """One memory of all the passages; questions that cannot be used are put into `bad`."""
    entries: list[Entry] = []
    pending = []
    for n, paragraph in enumerate(paragraphs):
        first = len(entries)
        try:
            entries += chunk_entries(text_field(paragraph, "context"), options.chunk, passage=n)
            questions = list(paragraph.get("qas", ()))
        except (DataError, TypeError, AttributeError) as error:
            bad.append((error if isinstance(error, DataError) else DataError("no passage as SQuAD has them"), paragraph))
            continue
        for question in questions:
            try:
                answers = [(text_field(a, "text"), int(a.get("answer_start", -1))) for a in question.get("answers", ())]
                text_field(question, "question")
                if not answers:
                    raise DataError(f"question {question.get('id')} has no answer")
            except (DataError, TypeError, ValueError, AttributeError, OverflowError) as error:
                problem = error if isinstance(error, DataError) else DataError("no question as SQuAD has them")
                bad.append((problem, question))
                continue
            evidence = {_holding(entries, first, text, start) for text, start in answers} - {-1}
            texts = tuple(dict.fromkeys(text for text, _ in answers))
            pending.append((text_field(question, "question"), texts, tuple(sorted(evidence))))
    examples = tuple(Example(q, texts[0], len(entries), texts, evidence, "qa") for q, texts, evidence in pending)
    return Episode(name, tuple(entries), examples)


def _holding(entries: list[Entry], first: int, text: str, start: int) -> int:
    """The entry, from `first` on, where the answer stands; -1 where it is cut in two."""
    for n in range(first, len(entries)):
        begin = entries[n].meta["offset"]
        if begin <= start < begin + len(entries[n].text) + 1 and text in entries[n].text:
            return n
    return next((n for n in range(first, len(entries)) if text in entries[n].text), -1)


@dataclass(frozen=True)
class BabiOptions:
    """answers: how the words of a list answer are joined."""

    answers: str = ","


def read_babi(path: Path, options: BabiOptions, where: Where) -> Iterator[Episode]:
    """bAbI (arXiv 1502.05698): numbered sentences, each an entry; `question<TAB>answer<TAB>supporting lines`."""
    entries: list[Entry] = []
    examples: list[Example] = []
    entry_of: dict[int, int] = {}
    start, story = 1, 0

    def close() -> Iterator[Episode]:
        if examples:
            yield Episode(f"{path.stem}:{start}", tuple(entries), tuple(examples), {"task": path.stem.split("_")[0]})

    for number, line in read_lines(path, where.reject):
        if not line.strip():
            continue
        try:
            head, _, rest = line.partition(" ")
            if not head.isdigit() or not rest:
                raise DataError("expected 'ID text'")
            if int(head) == 1 and story:
                yield from close()
                entries, examples, entry_of, start = [], [], {}, number
            story += 1
            if "\t" in rest:
                parts = rest.split("\t")
                if len(parts) != 3:
                    raise DataError(f"expected question, answer and supporting lines, found {len(parts)} fields")
                evidence = tuple(sorted({entry_of[int(n)] for n in parts[2].split()}))
                answer = parts[1].strip().replace(",", options.answers)
                examples.append(Example(parts[0].strip(), answer, len(entries), evidence=evidence, task="qa"))
            else:
                entry_of[int(head)] = len(entries)
                entries.append(Entry(rest.strip(), "turn", {"line": int(head)}))
        except (DataError, KeyError, ValueError) as error:
            problem = error if isinstance(error, DataError) else DataError(f"supporting line {error} does not exist")
            where.reject(problem.at(path, number), line)
    yield from close()


BABI, QA = Source(read_babi, BabiOptions), Source(read_squad, PassageOptions)
