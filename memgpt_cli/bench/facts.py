"""How answers and their time change as the store grows: facts about people never seen, kept in a real store."""

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.sources.facts import FactsOptions, ask, make_facts
from memgpt_cli.inference.session import Session
from memgpt_cli.schema import Entry, render_triple

Report = Callable[[str, int], None]


@dataclass
class Row:
    """Averages over the questions asked at one size of the store; times in milliseconds, the indexing in seconds."""

    facts: int
    exact: float
    recall: float
    answer_ms: float
    search_ms: float
    index_s: float


def measure_facts(
    session: Session, sizes: list[int], questions: int, seed: int, report: Report = lambda stage, n: None
) -> list[Row]:
    """One row a size: questions are asked one by one, as a user would, so that the time is that of one answer."""
    options: dict[str, Any] = dict(session.config.data.options) if session.config.data.source == "facts" else {}
    settings = FactsOptions(**options)
    language = "en" if settings.language == "both" else settings.language
    rows = []
    for size in sizes:
        rng = random.Random(f"{seed}/{size}")
        triples = make_facts(rng, size, language, "test", settings)
        gold = rng.sample(triples, min(questions, size))
        with tempfile.TemporaryDirectory() as folder:
            session.attach(str(Path(folder) / "facts.sqlite"), "facts", create=True)
            began = time.monotonic()
            for first in range(0, size, 8192):
                entries = [Entry(render_triple(*t), "fact") for t in triples[first : first + 8192]]
                session.store.put("facts", session.encoder.items(entries))
                report(f"indexing {size:,} facts", first)
            indexed = time.monotonic() - began
            asked = [(ask(rng, triple, language), triple) for triple in gold]
            rows.append(_measure(session, size, asked, indexed, report))
            session.close()
    return rows


def _measure(session: Session, size: int, asked: list[tuple[str, tuple[str, str, str]]], indexed: float, report: Report) -> Row:
    assert session.recall is not None
    right, found, searching, answering = 0, 0, 0.0, 0.0
    session.recall([asked[0][0]])  # the first search loads the vectors
    for n, (question, triple) in enumerate(asked):
        began = time.monotonic()
        reply = session.ask(question)
        answering += time.monotonic() - began
        began = time.monotonic()
        session.recall([question])
        searching += time.monotonic() - began
        right += reply.text.strip() == triple[2]
        found += render_triple(*triple) in {entry.text for entry in reply.recalled}
        if n % 50 == 0:
            report(f"{size:,} facts: question", n)
    count = len(asked)
    return Row(size, 100 * right / count, 100 * found / count, 1000 * answering / count, 1000 * searching / count, indexed)
