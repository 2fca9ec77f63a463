"""Examples that read each other's entries: choosing is learned where every question comes with a context of its own."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.data.plan import Part


def borrows(row: EncodedEpisode) -> bool:
    """Whether entries of others may stand beside a row's own: questions, each of which sees all that the row has."""
    n = len(row.entry_ids)
    return bool(n) and all(task == "qa" for task in row.tasks) and all(seen == n for seen in row.sees)


def pooled(rows: Sequence[EncodedEpisode], distractors: int, rng: random.Random) -> list[EncodedEpisode]:
    """Rows joined so that every example sees at least `distractors` entries of others; what cannot borrow stays as it is.

    Each entry is there once, whoever brought it, and is encoded once. Where a joined example named no evidence, all the
    entries it came with are its evidence.
    """
    free = [row for row in rows if not distractors or not borrows(row)]
    joined = [_joined(group, rng) if len(group) > 1 else group[0] for group in _groups(rows, distractors)]
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


def _joined(rows: Sequence[EncodedEpisode], rng: random.Random) -> EncodedEpisode:
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
        of=[(row.id, n) for row in rows for n in range(len(row.sees))],
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


def with_distractors(
    rows: Sequence[EncodedEpisode], parts: Sequence[Part], distractors: int, rng: random.Random
) -> tuple[list[EncodedEpisode], list[tuple[int, int]]]:
    """Episodes, and of each the examples a batch takes; of what is taken in parts nothing is borrowed."""
    if not distractors:
        return list(rows), [(part.first, part.last) for part in parts]
    whole = [part.last - part.first == len(row.sees) for row, part in zip(rows, parts, strict=True)]
    joined = pooled([row for row, all_of_it in zip(rows, whole, strict=True) if all_of_it], distractors, rng)
    others = [(row, (p.first, p.last)) for row, p, all_of_it in zip(rows, parts, whole, strict=True) if not all_of_it]
    return [*joined, *(row for row, _ in others)], [*((0, len(row.sees)) for row in joined), *(span for _, span in others)]
