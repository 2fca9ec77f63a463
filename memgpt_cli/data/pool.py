"""What is read together in a batch: questions beside each other's entries, or beside entries of a corpus."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from memgpt_cli.data.candidates import Candidates
from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.data.plan import Part
from memgpt_cli.schema import Episode


def borrows(row: EncodedEpisode) -> bool:
    """Whether entries of others may stand beside a row's own: questions, each of which sees all that the row has."""
    n = len(row.entry_ids)
    return bool(n) and all(task == "qa" for task in row.tasks) and all(seen == n for seen in row.sees)


def lends(episode: Episode) -> bool:
    """The same of texts: whether its entries may stand beside others'."""
    n = len(episode.entries)
    return bool(n) and all(x.task == "qa" and x.sees == n for x in episode.examples)


def pooled(rows: Sequence[EncodedEpisode], distractors: int, rng: random.Random) -> list[EncodedEpisode]:
    """Rows joined so that every example sees at least `distractors` entries of others; what cannot borrow stays as it is.

    Each entry is there once, whoever brought it, and is encoded once. Where a joined example named no evidence, all the
    entries it came with are its evidence.
    """
    free = [row for row in rows if not distractors or not borrows(row)]
    joined = [joined_rows(group, rng) if len(group) > 1 else group[0] for group in _groups(rows, distractors)]
    return free + joined


def _groups(rows: Sequence[EncodedEpisode], distractors: int) -> list[list[EncodedEpisode]]:
    """In order, each as small as it may be; what is left over at the end goes with the last one."""
    groups: list[list[EncodedEpisode]] = [[]]
    for row in rows if distractors else ():
        if borrows(row):
            groups[-1].append(row)
            own = [len(r.entry_ids) for r in groups[-1]]
            if sum(own) - max(own) >= distractors:
                groups.append([])
    rest = groups.pop()
    if rest and groups:
        groups[-1] += rest
    elif rest:
        groups.append(rest)
    return groups


def joined_rows(rows: Sequence[EncodedEpisode], rng: random.Random) -> EncodedEpisode:
    """One episode of all their examples, each of which sees all their entries, once and in random order."""
    order = [*range(len(rows))]
    rng.shuffle(order)
    place: dict[tuple[int, ...], int] = {}  # of an entry, by its ids
    kept: list[tuple[int, int]] = []
    for r in order:
        for n, ids in enumerate(rows[r].entry_ids):
            if tuple(ids) not in place:
                place[tuple(ids)] = len(kept)
                kept.append((r, n))

    def column(name: str) -> list[str]:
        return [getattr(rows[r], name)[n] for r, n in kept if getattr(rows[r], name)]

    def all_of(name: str) -> list[Any]:
        return [value for row in rows for value in getattr(row, name)]

    return EncodedEpisode(
        entry_ids=[rows[r].entry_ids[n] for r, n in kept],
        kinds=[rows[r].kinds[n] for r, n in kept],
        entries=column("entries"),
        entry_meta=column("entry_meta"),
        sees=[len(kept)] * sum(len(row.sees) for row in rows),
        evidence=[sorted(places) for row in rows for places in _evidence(row, place)],
        of=[row.name(n) for row in rows for n in range(len(row.sees))],
        input_ids=all_of("input_ids"),
        target_ids=all_of("target_ids"),
        inputs=all_of("inputs"),
        targets=all_of("targets"),
        references=all_of("references"),
        tasks=all_of("tasks"),
    )


def _evidence(row: EncodedEpisode, place: dict[tuple[int, ...], int]) -> Iterator[set[int]]:
    for named in row.evidence:
        yield {place[tuple(row.entry_ids[n])] for n in named or range(len(row.entry_ids))}


Near = dict[tuple[int, int], Sequence[int]]
"""Rows of a corpus that the model finds near an example (episode, number), the nearest first."""


def over_corpus(
    rows: Sequence[EncodedEpisode], parts: Sequence[Part], candidates: Candidates, near: Near, rng: random.Random
) -> list[EncodedEpisode]:
    """The examples of the parts, over what they bring from the corpus.

    Questions are one episode over all that any of them brings, and over what entries they have of their own, so that each is
    encoded once and what one rests on is there to mislead the others. What sees entries of its own in their order is an
    episode of its own, behind what it brings. Of a corpus of the examples' own entries only those bring anything that have such.
    """
    shared: list[tuple[EncodedEpisode, Part]] = []
    alone: list[tuple[EncodedEpisode, Part]] = []
    of_own = candidates.config.own
    for row, part in zip(rows, parts, strict=True):
        taken = row.part(part.first, part.last)
        (shared if borrows(row) or not (row.entry_ids or of_own) else alone).append((taken, part))
    together = [_over(shared, candidates, near, rng)] if shared else []
    return together + [one[0] if of_own else _over([one], candidates, near, rng) for one in alone]


def _over(
    group: Sequence[tuple[EncodedEpisode, Part]], candidates: Candidates, near: Near, rng: random.Random
) -> EncodedEpisode:
    corpus = candidates.corpus
    examples = [(part.episode, n) for _, part in group for n in range(part.first, part.last)]
    linked = [candidates.linked(*example) for example in examples]
    brought = [candidates.pick(link, near.get(example), rng) for link, example in zip(linked, examples, strict=True)]
    own = group[0][0] if len(group) == 1 else joined_rows([row for row, _ in group], rng)
    asked = zip(linked, brought, own.references, own.target_ids, strict=True)
    own = replace(own, target_ids=[candidates.answer(link, rows, refs) or ids for link, rows, refs, ids in asked])
    there, targets = {tuple(ids) for ids in own.entry_ids}, {tuple(ids) for ids in own.target_ids}
    named = {row for link in linked if not link.found for row in link.evidence}
    place: dict[int, int] = {}  # of a row of the corpus, among the entries
    held: dict[tuple[int, ...], int] = {}
    union = sorted({row for rows in brought for row in rows})
    rng.shuffle(union)
    for row in union:
        ids = tuple(corpus.ids(row))
        to_be_written = ids in targets and row not in named  # so it is not to be read
        if ids not in there and not to_be_written:
            place[row] = held.setdefault(ids, len(held))
    kinds = {place[row]: corpus.kind(row) for row in union if row in place}
    first = len(held)
    evidence = []
    for link, mine in zip(linked, own.evidence, strict=True):
        certain = [] if link.found and mine else link.evidence  # what was found may mislead: what an example brings is surer
        evidence.append(sorted({place[row] for row in certain if row in place}.union(first + n for n in mine)))
    return replace(
        own,
        entry_ids=[*map(list, held), *own.entry_ids],
        kinds=[*(kinds[n] for n in range(first)), *own.kinds],
        entries=(),
        entry_meta=(),
        sees=[first + seen for seen in own.sees],
        evidence=evidence,
        found=[
            not rests or (link.found and not mine) for link, mine, rests in zip(linked, own.evidence, evidence, strict=True)
        ],
    )


def read_together(
    rows: Sequence[EncodedEpisode],
    parts: Sequence[Part],
    rng: random.Random,
    distractors: int = 0,
    candidates: Candidates | None = None,
    near: Near | None = None,
) -> tuple[list[EncodedEpisode], list[tuple[int, int]]]:
    """The episodes of a batch, and of each the examples that it takes: over a corpus, beside distractors, or as they are.

    Of what is taken in parts no distractor is borrowed.
    """
    if candidates is not None:
        episodes = over_corpus(rows, parts, candidates, near or {}, rng)
        return episodes, [(0, len(row.sees)) for row in episodes]
    if not distractors:
        return list(rows), [(part.first, part.last) for part in parts]
    whole = [part.last - part.first == len(row.sees) for row, part in zip(rows, parts, strict=True)]
    joined = pooled([row for row, all_of_it in zip(rows, whole, strict=True) if all_of_it], distractors, rng)
    others = [(row, (p.first, p.last)) for row, p, all_of_it in zip(rows, parts, whole, strict=True) if not all_of_it]
    return [*joined, *(row for row, _ in others)], [*((0, len(row.sees)) for row in joined), *(span for _, span in others)]
