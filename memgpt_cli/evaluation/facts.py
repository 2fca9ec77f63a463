"""How answers and their time change as the store grows: facts about people never seen, kept in a real store."""

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.config import Config, GenerateConfig
from memgpt_cli.data.batching import collate
from memgpt_cli.data.dataset import encode_row
from memgpt_cli.data.sources.facts import FactsOptions, ask, make_facts
from memgpt_cli.generation.decode import generate
from memgpt_cli.generation.recall import Encoder
from memgpt_cli.memory import open_store
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import Entry, Episode, Example, render_triple
from memgpt_cli.tokenizer import Tokenizer


@dataclass
class Row:
    facts: int
    exact: float
    recall: float
    answer_ms: float
    search_ms: float
    index_s: float


def measure_facts(
    model: MemoryTransformer,
    tokenizer: Tokenizer,
    config: Config,
    sizes: list[int],
    questions: int,
    top_k: int,
    seed: int,
    report: Callable[[str, int], None] = lambda stage, n: None,
) -> list[Row]:
    """One row a size: questions are asked one by one, as a user would, so that the time is that of one answer."""
    options: dict[str, Any] = dict(config.data.options) if config.data.source == "facts" else {}
    settings = FactsOptions(**options)
    language = "en" if settings.language == "both" else settings.language
    encoder = Encoder(model, tokenizer)
    rows = []
    for size in sizes:
        rng = random.Random(f"{seed}/{size}")
        triples = make_facts(rng, size, language, "test", settings)
        entries = [Entry(render_triple(*t), "fact") for t in triples]
        gold = rng.sample(range(size), min(questions, size))
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(str(Path(folder) / "facts.sqlite"), "bench")
            began = time.monotonic()
            for first in range(0, size, 8192):
                store.put("facts", encoder.items(entries[first : first + 8192]))
                report(f"indexing {size:,} facts", first)
            indexed = time.monotonic() - began
            right, found, searching, answering = 0, 0, 0.0, 0.0
            encoder_query = ask(rng, triples[gold[0]], language)
            store.search("facts", encoder.queries([encoder_query]).numpy(), k=top_k)  # the first search loads the keys
            for n, g in enumerate(gold):
                question = ask(rng, triples[g], language)
                start = time.monotonic()
                query = encoder.queries([question]).numpy()
                before = time.monotonic()
                (hits,) = store.search("facts", query, k=top_k)
                searching += time.monotonic() - before
                texts = [h.entry.text for h in hits]
                episode = Episode("q", tuple(Entry(t, "fact") for t in texts), (Example(question, "", len(texts)),))
                batch = collate([encode_row(episode, tokenizer)]).to(next(model.parameters()).device)
                made = generate(model, batch, GenerateConfig(max_tokens=24))
                answering += time.monotonic() - start
                right += tokenizer.decode(made.ids[0][0]).strip() == triples[g][2]
                found += entries[g].text in texts
                if n % 50 == 0:
                    report(f"{size:,} facts: question", n)
            store.close()
        asked = len(gold)
        rows.append(
            Row(size, 100 * right / asked, 100 * found / asked, 1000 * answering / asked, 1000 * searching / asked, indexed)
        )
    return rows
