"""Examples that borrow each other's entries."""

import random
from dataclasses import replace

import pytest

from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.data.plan import Part
from memgpt_cli.data.pool import borrows, pooled, read_together


def row(name: str, *entries: int, asked: int = 1, task: str = "qa", evidence: tuple[int, ...] = ()) -> EncodedEpisode:
    """An episode whose entries are of one token each."""
    return EncodedEpisode(
        entry_ids=[[e] for e in entries],
        kinds=["chunk"] * len(entries),
        input_ids=[[100 + n] for n in range(asked)],
        target_ids=[[200 + n] for n in range(asked)],
        sees=[len(entries)] * asked,
        evidence=[list(evidence)] * asked,
        id=name,
        entries=[f"text {e}" for e in entries],
        entry_meta=[""] * len(entries),
        inputs=[f"{name}?"] * asked,
        targets=["yes"] * asked,
        references=[[]] * asked,
        tasks=[task] * asked,
    )


def rested_on(joined: EncodedEpisode, example: int) -> set[int]:
    return {joined.entry_ids[n][0] for n in joined.evidence[example]}


@pytest.mark.parametrize("distractors", [1, 3, 7, 1000])
def test_every_example_sees_its_own_and_enough_of_others(distractors):
    rows = [row(f"r{n}", *range(10 * n + 1, 10 * n + 2 + n % 3), asked=1 + n % 2) for n in range(12)]
    joined = pooled(rows, distractors, random.Random(1))
    found = {}
    for episode in joined:
        there = [ids[0] for ids in episode.entry_ids]
        assert len(set(there)) == len(there)
        assert all(seen == len(there) for seen in episode.sees)
        for n in range(len(episode.sees)):
            found[episode.name(n)] = set(there) - rested_on(episode, n)
            own = next(r for r in rows if r.id == episode.name(n)[0])
            assert rested_on(episode, n) == {ids[0] for ids in own.entry_ids}
            assert episode.inputs[n] == f"{own.id}?"
    assert sorted(found) == sorted((r.id, n) for r in rows for n in range(len(r.sees)))
    assert min(map(len, found.values())) >= min(distractors, sum(len(r.entry_ids) for r in rows) - 3)


def test_what_is_named_stays_the_evidence_and_an_entry_of_several_is_there_once():
    (joined,) = pooled([row("a", 1, 2, evidence=(1,)), row("b", 2, 3)], 1, random.Random(2))
    assert sorted(ids[0] for ids in joined.entry_ids) == [1, 2, 3]
    assert [rested_on(joined, n) for n in range(2)] == [{2}, {2, 3}]


def test_what_has_no_context_of_its_own_or_is_no_question_borrows_nothing():
    alone = [row("no memory"), row("talk", 1, task="dialogue"), replace(row("sees part", 1, 2), sees=[1])]
    assert not any(map(borrows, alone))
    assert pooled([*alone, row("only one", 5)], 4, random.Random(1)) == [*alone, row("only one", 5)]
    assert pooled([row("a", 1), row("b", 2)], 0, random.Random(1)) == [row("a", 1), row("b", 2)]


def test_examples_that_a_batch_takes_in_part_borrow_nothing():
    rows = [row("a", 1), row("long", 2, asked=4), row("b", 3)]
    parts = [Part(0, 0, 1, 5), Part(1, 1, 3, 5), Part(2, 0, 1, 5)]
    joined, spans = read_together(rows, parts, random.Random(1), 1)
    assert spans == [(0, 2), (1, 3)]
    batch = collate(joined, spans)
    assert batch.examples == 4
    assert {joined[k].name(x) for pairs in batch.rows for k, x in pairs} == {("a", 0), ("b", 0), ("long", 1), ("long", 2)}
