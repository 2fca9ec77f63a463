"""How well a store finds what is right, and how well a model writes from what is found, by the size of the store."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memgpt_cli.evaluation.evaluate import evaluate
from memgpt_cli.evaluation.metrics import MODEL_METRICS, Score
from memgpt_cli.evaluation.recalled import RANKINGS, Ranked, Report, rank, subset, write_recalled
from memgpt_cli.files import write_text
from memgpt_cli.inference.session import Session
from memgpt_cli.store import open_store


@dataclass(frozen=True)
class Retrieval:
    """A store of so many entries: scores of each ranking, and of what was written from the best by both."""

    entries: int
    examples: int
    rankings: dict[str, list[Score]]
    written: list[Score] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The values alone."""
        scores = {**self.rankings, **({"written": self.written} if self.written else {})}
        named = {by: {score.name: score.value for score in of} for by, of in scores.items()}
        return {"entries": self.entries, "examples": self.examples, **named}


def save_retrieval(folder: Path, split: str, found: Sequence[Retrieval]) -> Path:
    """The table as JSON below `folder`, for `memgpt bench results`."""
    path = folder / f"{split}-retrieval.json"
    write_text(path, json.dumps([retrieval.row() for retrieval in found], indent=1))
    return path


def _scored(ranked: Ranked, resamples: int, written: Sequence[Score] = ()) -> Retrieval:
    examples = len(ranked.ranks["both"])
    return Retrieval(ranked.entries, examples, {by: ranked.scores(by, resamples) for by in RANKINGS}, [*written])


def by_size(
    split: Path,
    scratch: Path,
    session: Session,
    metrics: Sequence[str],
    sizes: Sequence[int] = (),
    postprocess: Callable[[str], str] = str,
    report: Report = lambda stage, n: None,
) -> list[Retrieval]:
    """The session's store as it is, and for `eval.ablation_examples` with fewer entries (`sizes`); empty where it cannot be said
    what is right.

    The session reads another store afterwards, a copy of a part of this one, where there are several sizes.
    """
    config = session.config.eval
    every = rank(split, session, config.max_examples, report)
    if not every.ranks["both"]:
        return []
    some = min(filter(None, (config.ablation_examples, config.max_examples)), default=0)
    sizes = [size for size in sorted(sizes) if size < every.entries]
    right = set[int]().union(*every.right[: some or None])
    whole, namespace, out = session.store.url, session.namespace, []
    for size in (size for size in sizes if size >= len(right)):
        session.attach(whole, namespace)
        file = str(scratch / f"{size}.sqlite")
        with open_store(file, session.fingerprint) as smaller:
            subset(session, right, size, smaller)
        session.attach(file, namespace)
        ranked = rank(split, session, some, report)
        recalled = write_recalled(split, scratch / str(size), session, some, report, keep_own=True)
        texts = [metric for metric in metrics if metric not in MODEL_METRICS][:1]
        only = replace(config, memories=("learned",), max_examples=some)
        written = evaluate(
            session.model, session.tokenizer, recalled, texts, only, session.config.generate, postprocess=postprocess
        )
        out.append(_scored(ranked, config.bootstrap, written[0].scores[:1]))
    return [*out, _scored(every, config.bootstrap)]
