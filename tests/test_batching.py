"""Batches lose nothing, repeat nothing, and are a pure function of seed and number."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memgpt_cli.config import RenameConfig
from memgpt_cli.data.augment import Renamer, invent, values_of
from memgpt_cli.data.dataset import EpisodeDataset
from memgpt_cli.data.plan import parts_of, plan
from memgpt_cli.data.stream import TrainStream
from memgpt_cli.schema import Entry, Episode, Example, parse_triple, render_triple
from memgpt_cli.tokenizer import load_tokenizer

LENGTHS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 30), max_size=8),
        st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=9),
    ),
    min_size=2,
    max_size=20,
)


def as_lengths(drawn):
    out = []
    for entries, examples in drawn:
        inputs, targets = (np.array(column) for column in zip(*examples, strict=True))
        out.append((np.array(entries, dtype=int), inputs, targets, np.full(len(examples), len(entries))))
    return out


@given(LENGTHS, st.integers(20, 400), st.integers(0, 5), st.sampled_from([1, 2, 3]))
@settings(max_examples=80, deadline=None)
def test_every_example_comes_exactly_once_in_an_epoch(drawn, budget, seed, world):
    lengths = as_lengths(drawn)
    if sum(len(x[1]) for x in lengths) < world:
        return
    parts = parts_of(lengths, budget)
    batches = plan(parts, budget, random.Random(seed), world)
    assert len(batches) % world == 0
    seen = Counter((p.episode, k) for batch in batches for p in batch for k in range(p.first, p.last))
    assert seen == Counter((n, k) for n, x in enumerate(lengths) for k in range(len(x[1])))
    for batch in batches:
        singles = all(p.last - p.first == 1 for p in batch) and len(batch) <= world
        assert len(batch) == 1 or len(batch) * max(p.cost for p in batch) <= budget or singles


def test_processes_share_an_epoch_without_overlap(facts_data):
    data, tokenizer = EpisodeDataset(facts_data[0] / "train"), load_tokenizer(facts_data[0])
    whole = TrainStream(data, tokenizer, 600, seed=1, world=2)
    batches = whole.epoch(0)
    shares = [[p for n in range(len(batches) // 2) for p in batches[2 * n + rank]] for rank in (0, 1)]
    keys = [{(p.episode, k) for p in share for k in range(p.first, p.last)} for share in shares]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == sum(len(e.examples) for e in data)


def test_a_stream_started_late_is_the_same_stream(facts_data):
    data, tokenizer = EpisodeDataset(facts_data[0] / "train"), load_tokenizer(facts_data[0])
    begin, late = iter(TrainStream(data, tokenizer, 300, seed=3)), iter(TrainStream(data, tokenizer, 300, seed=3, start=25))
    expected = [next(begin) for _ in range(30)][25:]
    for batch in expected:
        assert batch.targets.equal(next(late).targets)


def test_invented_names_keep_their_script():
    rng = random.Random(1)
    for _ in range(50):
        assert invent("paris", rng).isalpha()
        assert invent("Paris", rng)[0].isupper()
        assert len(invent("巴黎", rng)) == 2
        assert "\u4e00" <= invent("巴黎", rng)[0] <= "\u9fff"
        assert invent("42", rng).isdigit()


def test_renaming_is_consistent_and_leaves_relations_alone():
    entries = (
        Entry(render_triple("resto_paris_8stars", "R_location", "paris"), "fact"),
        Entry(render_triple("resto_paris_8stars", "paris", "8"), "fact"),
        Entry("user: in paris please", "turn"),
    )
    episode = Episode("e", entries, (Example("bot: where\nuser: paris", "api_call paris comparison", 3),))
    assert values_of([episode], ("R_location",)) == ["paris"]
    renamed = Renamer(RenameConfig(("R_location",), 1.0), ["paris"])(episode, random.Random(2))
    triple = parse_triple(renamed.entries[0].text)
    assert triple is not None
    new = triple[2]
    assert new != "paris"
    assert triple[0] == f"resto_{new}_8stars"
    assert parse_triple(renamed.entries[1].text)[1] == "paris"
    assert renamed.entries[2].text == f"user: in {new} please"
    assert renamed.examples[0].target == f"api_call {new} comparison"
    assert Renamer(RenameConfig(("R_location",), 0.0), ["paris"])(episode, random.Random(2)) is episode


def test_too_few_examples_for_the_processes_is_said():
    lengths = [(np.array([1]), np.array([1]), np.array([1]), np.array([1]))]
    with pytest.raises(ValueError, match="fewer examples than processes"):
        plan(parts_of(lengths, 10), 10, None, world=2)


@pytest.mark.parametrize(("episodes", "world"), [(5, 3), (4, 3), (7, 4), (5, 2), (3, 3)])
def test_few_long_examples_are_shared_out_all_the_same(episodes, world):
    """Each fills a batch of its own and cannot be halved: going up and down by turns, planning never ended."""
    one = (np.array([9]), np.array([40]), np.array([40]), np.array([1]))
    batches = plan(parts_of([one] * episodes, 50), 50, None, world)
    assert len(batches) == episodes // world * world
    assert sorted(p.episode for batch in batches for p in batch) == list(range(episodes))
