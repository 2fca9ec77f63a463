"""Batches lose nothing, repeat nothing, and are a pure function of seed and number."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memgpt_cli.config import RenameConfig
from memgpt_cli.data.augment import Renamer, invent, values_of
from memgpt_cli.data.dataset import EpisodeDataset
from memgpt_cli.data.plan import parts_of, plan
from memgpt_cli.data.spans import copied_spans, own_words
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
    made = {name: [invent(name, rng) for _ in range(300)] for name in ("paris", "Paris", "USA", "巴黎", "42", "New York 7")}
    assert all(name.isalnum() and name == name.lower() for name in made["paris"])
    assert any(not name.isascii() for name in made["paris"]), "syllables of several languages"
    assert any(not name.isalpha() for name in made["paris"]), "digits in some"
    assert all(name[0].isupper() or name[0].isdigit() for name in made["Paris"])
    assert all(name == name.upper() for name in made["USA"])
    assert {len(name) for name in made["巴黎"]} == {1, 2, 3}
    assert all("\u4e00" <= c <= "\u9fff" for name in made["巴黎"] for c in name)
    assert all(name.isdigit() and len(name) == 2 for name in made["42"])
    assert all(re.fullmatch(r"\S+ \S+ \d", name) for name in made["New York 7"])


def test_renaming_is_consistent_and_leaves_relations_alone():
    entries = (
        Entry(render_triple("resto_paris_8stars", "R_location", "paris"), "fact"),
        Entry(render_triple("resto_paris_8stars", "paris", "8"), "fact"),
        Entry("user: in paris please", "turn"),
    )
    episode = Episode("e", entries, (Example("bot: where\nuser: paris", "api_call paris comparison", 3),))
    assert values_of([episode], ("R_location",)) == ["paris"]
    renamed = Renamer(RenameConfig(("R_location",), probability=1.0), ["paris"])(episode, random.Random(2))
    triple = parse_triple(renamed.entries[0].text)
    assert triple is not None
    new = triple[2]
    assert new != "paris"
    assert triple[0] == f"resto_{new}_8stars"
    assert parse_triple(renamed.entries[1].text)[1] == "paris"
    assert renamed.entries[2].text == f"user: in {new} please"
    assert renamed.examples[0].target == f"api_call {new} comparison"
    assert Renamer(RenameConfig(("R_location",), probability=0.0), ["paris"])(episode, random.Random(2)) is episode


def _names_told(n):
    """Two sentences and what is asked of them, in two languages, with names that no other episode has."""
    name, other, mine, password = (
        f"Qu{chr(97 + n)}rk",
        f"Zo{chr(97 + n)}ny",
        f"{chr(0x8F00 + n)}{chr(0x9000 + n)}{chr(0x9100 + n)}",
        f"{chr(97 + n)}{n}{chr(121 - n)}{7 * n}",
    )
    entries = tuple(Entry(text, "turn") for text in (
        f"user: my cat is called {name}", f"user: {other} is my sister", f"user: 我的狗叫{mine}", f"user: the password is {password}",
    ))  # fmt: skip
    examples = (
        Example("user: what is my cat called", f"Your cat is called {name}.", 4),
        Example("user: who is my sister", f"Your sister is {other}.", 4),
        Example("user: 我的狗叫什么", f"你的狗叫{mine}。", 4),
        Example("user: the password", f"It is {password}.", 4),
    )
    return Episode(f"e{n}", entries, examples), (name, other, mine)


def test_what_targets_copy_is_found_without_a_word_about_the_data():
    told = [_names_told(n) for n in range(24)]
    own = own_words(episode for episode, _ in told)
    assert {"Your", "is", "你", "的"} <= set(own)
    for episode, names in told:
        spans = copied_spans(episode, own)
        assert set(names) <= set(spans)
        assert not {"Your", "is", "你的"} & set(spans)
        renamed = Renamer(RenameConfig(auto=True, probability=1.0), [], own)(episode, random.Random(1))
        for before, after in zip(episode.examples, renamed.examples, strict=True):
            assert before.target != after.target
            new = after.target.removesuffix(".").removesuffix("。").split()[-1].split("叫")[-1]
            assert any(new in entry.text for entry in renamed.entries), "target and entry are renamed together"
        assert not any(name in entry.text for name in names for entry in renamed.entries)


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
