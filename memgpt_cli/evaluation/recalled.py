"""A split over a store: its memory replaced by what is recalled for each input, and how retrieval ranks what is right."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from memgpt_cli.data.corpus import pages
from memgpt_cli.data.dataset import EpisodeDataset, EpisodeWriter
from memgpt_cli.data.spans import bearing
from memgpt_cli.errors import UsageError
from memgpt_cli.evaluation.evaluate import Condition, is_exact
from memgpt_cli.evaluation.metrics import Score, mean_score
from memgpt_cli.evaluation.predict import Prediction
from memgpt_cli.inference.session import Session
from memgpt_cli.schema import RESTS_ON, Episode, Example
from memgpt_cli.store import Row, Store, Stored
from memgpt_cli.store.lexical import fuse

DEPTH = 100
"""How far down a ranking is looked at."""
CUTS = (1, 8, 32)
RANKINGS = ("words", "vectors", "both")
FEWEST = 10
"""Examples that it takes to say how much vectors shall count."""
_AT_ONCE = 256

Report = Callable[[str, int], None]
Right = Callable[[Stored], bool]


def right_for(episode: Episode, example: Example) -> Right | None:
    """Whether a stored entry is what an example rests on: the data name it, by its id or text.

    Else it is an entry that the example has as evidence itself, or a question's that bears an answer. None where that cannot be said.
    """
    if named := {str(name) for name in episode.meta.get(RESTS_ON) or () if str(name).strip()}:
        return lambda entry: entry.text in named or ("id" in entry.meta and str(entry.meta["id"]) in named)
    own = {episode.entries[e].text for e in example.evidence}
    if example.task != "qa":
        return (lambda entry: entry.text in own) if own else None
    bears = bearing(example.all_references)
    return lambda entry: entry.text in own or bears(entry.text)


def _examples(split: Path, most: int) -> Iterator[tuple[Episode, int]]:
    """The examples of a split in order, the first `most` where given."""
    count = 0
    for episode in EpisodeDataset(split):
        for n in range(len(episode.examples)):
            if most and count == most:
                return
            yield episode, n
            count += 1


def write_recalled(
    split: Path,
    folder: Path,
    session: Session,
    most: int = 0,
    report: Report = lambda stage, n: None,
    keep_own: bool = False,
) -> Path:
    """Writes every example of `split` (the first `most` where given) as an episode of its own, over recalled entries; returns `folder`.

    Evidence is what is right of what was recalled.

    Args:
        keep_own: what an example sees of its own is read as well, behind what is recalled, as in training over a corpus.
    """
    if session.recall is None:
        raise UsageError("no store is read: name one with --store")
    writer, count = EpisodeWriter(folder), 0
    for page in pages(_examples(split, most), _AT_ONCE):
        recalled = session.recall([episode.examples[n].input for episode, n in page])
        for (episode, n), found in zip(page, recalled, strict=True):
            example, right = episode.examples[n], right_for(episode, episode.examples[n])
            own = episode.entries[: example.sees] if keep_own else ()
            made = session.prompt(example.input, [*found, *own])
            mine = {episode.entries[e].text for e in example.evidence}
            read = enumerate(zip(made.stored, made.entries, strict=True))
            evidence = [i for i, (stored, entry) in read if (right(stored) if stored and right else entry.text in mine)]
            writer.write(
                replace(
                    made.episode, id=f"{episode.id}/{n}", evidence=[evidence], targets=[example.target],
                    target_ids=[session.tokenizer.encode(example.target)], references=[example.references], tasks=[example.task],
                )
            )  # fmt: skip
        count += len(page)
        report("recalling", count)
    writer.close()
    return folder


@dataclass
class Ranked:
    """Where in each ranking of a store the first right entry stands, from 1; 0 where it is not among the first `DEPTH`."""

    entries: int
    ranks: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in RANKINGS})
    right: list[set[int]] = field(default_factory=list)  # of each example, ids of right entries that were found

    def scores(self, by: str, resamples: int) -> list[Score]:
        """recall@k: a right entry is among the first k; MRR over the first `DEPTH`."""
        ranks = self.ranks[by]
        how = f"any right entry|{self.entries} entries"
        out = [mean_score(f"recall@{k}", [100.0 * (0 < r <= k) for r in ranks], f"recall@{k}|{how}", resamples) for k in CUTS]
        mrr = [100.0 / r if r else 0.0 for r in ranks]
        return [*out, mean_score("mrr", mrr, f"mrr@{DEPTH}|{how}", resamples)]


def rank(split: Path, session: Session, most: int = 0, report: Report = lambda stage, n: None) -> Ranked:
    """How the store's search ranks what is right for each example, over all its entries: by words, by vectors, by both fused.

    Examples of which it cannot be said what is right are left out.
    """
    store, namespace = session.store, session.namespace
    ranked, count = Ranked(store.stats(namespace).entries), 0
    for page in pages(_examples(split, most), _AT_ONCE):
        known, texts, vectors = _asked(page, session)
        found: list[set[int]] = [set() for _ in known]
        for name, asked in zip(RANKINGS, ((None, texts), (vectors, None), (vectors, texts)), strict=True):
            ranking = store.search(namespace, *asked, k=DEPTH, share=session.share)
            for hits, right, ids in zip(ranking, known, found, strict=True):
                places = [place for place, hit in enumerate(hits, 1) if right(hit.entry)]
                ranked.ranks[name].append(places[0] if places else 0)
                ids.update(hits[place - 1].entry.id for place in places[:1])
        ranked.right += found
        count += len(page)
        report("ranking", count)
    return ranked


def best_share(split: Path, session: Session, most: int = 500, report: Report = lambda stage, n: None) -> float | None:
    """How much vectors shall count beside words: what gives the highest MRR over so many examples from all of a split.

    Of equals the nearest to a half; None where too few examples tell, or nothing right was found at all.
    """
    shares, sums, count = [n / 10 for n in range(10)], defaultdict[float, float](float), 0
    every = max(1, sum(len(inputs) for _, inputs, *_ in EpisodeDataset(split).lengths()) // most)
    for page in pages(islice(_examples(split, 0), 0, every * most, every), _AT_ONCE):
        known, texts, vectors = _asked(page, session)
        near = session.store.search(session.namespace, vectors=vectors, k=DEPTH)
        said = session.store.search(session.namespace, texts=texts, k=DEPTH)
        for rankings, right in zip(zip(near, said, strict=True), known, strict=True):
            good = {hit.entry.id for ranking in rankings for hit in ranking if right(hit.entry)}
            ids = [[hit.entry.id for hit in ranking] for ranking in rankings]
            for share in shares:
                fused = fuse(ids, DEPTH, (share, 1 - share))
                sums[share] += next((1 / place for place, (id, _) in enumerate(fused, 1) if id in good), 0.0)
        count += len(known)
        report("weighing", count)
    if count < FEWEST or not any(sums.values()):
        return None
    return max(shares, key=lambda share: (round(sums[share] / count, 4), -abs(share - 0.5)))


def _asked(page: list[tuple[Episode, int]], session: Session) -> tuple[list[Right], list[str], np.ndarray | None]:
    """Of examples of which it can be said: what is right, what is looked for, and its vectors."""
    known = [(episode.examples[n].input, right) for episode, n in page if (right := right_for(episode, episode.examples[n]))]
    texts = [session.prompt.cut_input(text)[0] for text, _ in known]
    return [right for _, right in known], texts, session.encoder.queries(texts) if texts else None


def subset(session: Session, keep: set[int], size: int, into: Store, seed: int = 1) -> None:
    """Copies entries of the session's store with their vectors: those to keep, and others drawn by seed, `size` in all."""
    store, namespace = session.store, session.namespace
    others = [e.id for e in store.all(namespace) if e.id not in keep]
    drawn = random.Random(seed).sample(others, max(0, min(len(others), size - len(keep))))
    for ids in pages(sorted(keep | {*drawn}), 2000):
        vectors = store.vectors(namespace, ids)
        rows = [
            Row(
                e.text, e.kind, e.meta, [*e.provenance], e.created, e.updated, e.version, e.searchable,
                {mark: of[e.id] for mark, of in vectors.items() if e.id in of},
            )
            for e in store.get(namespace, ids)
        ]  # fmt: skip
        into.restore(namespace, rows)


def of_store(conditions: list[Condition], resamples: int) -> list[Condition]:
    """What the model's scores chose among recalled entries is called `store`, not `learned`; with what became of the right entry."""
    out = []
    for c in conditions:
        if c.memory == "learned":
            c = replace(c, memory="store", scores=c.scores + _by_right_entry(c.predictions, resamples))
        out.append(c)
    return out


def _by_right_entry(predictions: list[Prediction], resamples: int) -> list[Score]:
    """Exact answers where a right entry was not among those read, where one was and was used, and where another was used."""
    groups: dict[str, list[float]] = {"read and used": [], "read, another used": [], "not among those read": []}
    for p in predictions:
        if p.task == "qa" and p.used is not None:
            name = "not among those read" if p.age is None else "read and used" if p.used else "read, another used"
            groups[name].append(100.0 * is_exact(p))
    all_of_them = sum(map(len, groups.values()))
    return [
        mean_score(f"exact: right entry {name} ({100 * len(of) / all_of_them:.1f} %)", of, "exact|by what was read", resamples)
        for name, of in groups.items()
        if of
    ]
