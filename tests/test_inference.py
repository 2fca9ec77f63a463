"""One path: what a model reads when it answers is, id for id, what it read in training; states are kept, and dropped."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import make_episode, tiny_model
from test_sources import SAMPLES

from memgpt_cli.chat.conversation import Conversation, _Event
from memgpt_cli.config import CleanConfig, Config, DataConfig, GenerateConfig, InferenceConfig, StoreConfig, TokenizerConfig
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import EpisodeDataset, Seen, encode, read_manifest
from memgpt_cli.data.dialogue import Fact, Turn
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.errors import UsageError
from memgpt_cli.inference.decode import generate
from memgpt_cli.inference.encoder import Encoder, Name, States
from memgpt_cli.inference.prompt import Prompter, as_entry
from memgpt_cli.inference.session import Question, Session
from memgpt_cli.schema import Entry
from memgpt_cli.store import Filter, Item, open_store
from memgpt_cli.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    """A source's sample, preprocessed: the folder and the settings."""

    def make(name, **options):
        root = tmp_path_factory.mktemp("data")
        tokenizer = TokenizerConfig(vocab_size=330)
        if name == "facts":
            small = {"facts": 12, "facts_min": 6, "facts_test": 8, "episodes_train": 6, "episodes_valid": 2, "episodes_test": 2}
            config = DataConfig(name=name, source=name, path="", options=small, tokenizer=tokenizer)
        elif name == "parallel":
            for side, words in (("a", "house cat river ship"), ("b", "haus katze fluss schiff")):
                lines = [" ".join(words.split()[k % 4] for k in (n, n + 1, n // 2)) for n in range(30)]
                (root / f"{side}.txt").write_text("\n".join(lines) + "\n")
            config = DataConfig(
                name=name,
                source=name,
                path=str(root),
                files={"train": ["a.txt", "b.txt"]},
                options={"similar": 2},
                tokenizer=tokenizer,
            )
        else:
            file, sample, given = SAMPLES[name]
            (root / file).write_text(sample, encoding="utf-8")
            config = DataConfig(
                name=name, source=name, path=str(root), files={"train": file}, options={**given, **options}, tokenizer=tokenizer
            )
        return preprocess(config, root / "out").folder, config

    return make


@pytest.mark.parametrize("name", [*SAMPLES, "facts", "parallel"])
def test_a_prompt_is_what_training_read(name, data_of):
    """Every example of every source, rebuilt from its raw texts: the same ids, kinds and order as on disk."""
    folder, config = data_of(name)
    seen = Seen.of(read_manifest(folder)["statistics"]["train"])
    prompt = Prompter(load_tokenizer(folder), config, seen)
    checked = 0
    data = EpisodeDataset(folder / "train")
    for n in range(len(data)):
        row, episode = data.row(n), data[n]
        for k, example in enumerate(episode.examples):
            made = prompt(example.input, episode.entries[: example.sees])
            assert list(made.episode.entry_ids) == row.entry_ids[: example.sees]
            assert list(made.episode.kinds) == row.kinds[: example.sees]
            assert made.episode.input_ids[0] == row.input_ids[k]
            assert made.notes == []
            checked += 1
    assert checked


@pytest.mark.parametrize("name", ["dialog_babi", "kdconv", "dialogue"])
def test_a_conversation_reads_what_training_read(name, data_of):
    """The turns and facts of a dialogue, said one after the other: before each reply the chat's prompt is the example on disk."""
    folder, config = data_of(name)
    tokenizer = load_tokenizer(folder)
    chat = dataclasses.replace(config.chat, turns=2)
    session = Session(
        "t", None, tiny_model(len(tokenizer)), tokenizer, Config(data=dataclasses.replace(config, chat=chat)), Seen(), "e"
    )
    data = EpisodeDataset(folder / "train")
    checked = 0
    for n in range(len(data)):
        row, episode = data.row(n), data[n]
        wanted = {(x.input, x.sees): k for k, x in enumerate(episode.examples)}
        talk = object.__new__(Conversation)
        talk.session, talk.config, talk.talks, talk.events = session, chat, True, []
        for entry in episode.entries:
            if talk.events:
                source, own, _ = talk._here()
                if (k := wanted.get((source, len(own)))) is not None:
                    made = session.prompt(source, own)
                    assert list(made.episode.entry_ids) == row.entry_ids[: row.sees[k]]
                    assert made.episode.input_ids[0] == row.input_ids[k]
                    checked += 1
            said = entry.text.removeprefix(f"{entry.meta.get('speaker')}: ")
            talk.events.append(
                _Event(Turn(entry.meta["speaker"], said) if entry.kind == "turn" else Fact(entry.text, entry.meta))
            )
    assert checked >= len(data)


def test_what_is_cleaned_in_training_is_cleaned_when_answering(tokenizer):
    prompt = Prompter(tokenizer, DataConfig(clean=CleanConfig(unicode="NFC")))
    composed, spelled = "caf\u00e9\nred", "cafe\u0301\r\nred"
    assert prompt(spelled, [Entry(spelled)]).episode.entry_ids == prompt(composed, [Entry(composed)]).episode.entry_ids
    assert prompt(spelled, []).episode.input_ids == prompt(composed, []).episode.input_ids


def test_a_kind_that_training_never_held_is_read_as_the_commonest(tokenizer):
    prompt = Prompter(tokenizer, DataConfig(), Seen(kinds=("chunk", "fact")))
    made = prompt("x", [Entry("a", "note"), Entry("b | c | d", "fact")])
    assert list(made.episode.kinds) == ["chunk", "fact"]
    assert [e.kind for e in made.entries] == ["note", "fact"], "what is shown is what it is"


# states


def test_states_keep_to_their_budget_and_the_least_lately_read_go_first():
    states, one = States(budget=4 * (5 * 8 + 8) * 2), torch.ones(5, 8)
    for n in range(3):
        states.put(Name(n, 1), one * n, one[0])
        states.get(Name(0, 1))
    assert states.ids() == {0, 2}
    assert states.bytes == 2 * 4 * (5 * 8 + 8)
    states.keep({0: 2, 2: 1})
    assert states.ids() == {2}, "an edited entry's are gone"
    states.put(Name(9, 1), torch.ones(500, 8), one[0])
    assert len(states) == 0 == states.bytes, "what is larger than the budget is not kept"


def test_kept_states_change_no_answer(tokenizer):
    model = tiny_model(len(tokenizer), seed=3)
    encoder = Encoder(model, tokenizer)
    episodes = [encode(make_episode(n, entries=5, examples=2), tokenizer) for n in range(3)]
    names = {(*ids, 1): Name(n, 1) for n, ids in enumerate(sorted({tuple(i) for e in episodes for i in e.entry_ids}))}
    for batch in (collate(episodes), collate(episodes[1:]), collate(episodes[:1])):
        plain = model.encode_texts(batch.texts)
        kept = encoder.encode(batch, names)
        real = torch.cat([torch.ones(1, dtype=torch.bool), *((t != 0).flatten() for t in batch.texts)])
        torch.testing.assert_close(kept.states[real], plain.states[real], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kept.means, plain.means, atol=1e-5, rtol=1e-5)
        config = GenerateConfig(max_tokens=6)
        assert generate(model, batch, config, encoded=kept).ids == generate(model, batch, config).ids


@pytest.fixture
def session(tokenizer, tmp_path):
    config = Config(store=StoreConfig(recall=3), generate=GenerateConfig(max_tokens=4), inference=InferenceConfig(cache_mb=1))
    with Session("tiny", None, tiny_model(len(tokenizer)), tokenizer, config, Seen(), "e") as opened:
        opened.attach(str(tmp_path / "m.sqlite"), "anna", create=True)
        yield opened


def test_an_entry_is_encoded_once_and_what_is_forgotten_is_dropped(session, monkeypatch):
    encoded = []
    whole = session.model.encode
    monkeypatch.setattr(session.model, "encode", lambda tokens: encoded.append(len(tokens)) or whole(tokens))
    ids = [session.remember(text).ids[0] for text in ("the red house", "anna keeps cats", "old ships at night")]
    first = session.ask("the house and the cats and the ships ?")
    assert {r.id for r in first.read} == set(ids)
    assert session.encoder.states.ids() == set(ids)
    encoded.clear()
    session.ask("the ships and the cats and the house ?")
    assert sum(encoded) == 2, "the question for the search and for the reading; no entry again"
    session.store.edit("anna", ids[0], Item("the grey house", vector=session.encoder.vectors(["the grey house"])[0]))
    with open_store(session.store.url) as other:  # another process
        other.forget("anna", [ids[1]])
    session.ask("the house ?")
    assert {(name.id, name.version) for name in session.encoder.states._held} == {(ids[0], 2), (ids[2], 1)}
    session.forget(ids[2])
    assert ids[2] not in session.encoder.states.ids()


def test_another_store_has_other_states(session, tmp_path):
    """Ids are a store's own: entry 1 of one is not entry 1 of another."""
    session.remember("the red house stands by a river")
    session.ask("the house ?")
    assert len(session.encoder.states) == 1
    session.attach(str(tmp_path / "other.sqlite"), "anna", create=True)
    assert len(session.encoder.states) == 0
    session.remember("cats")
    kept = session.ask("cats ?")
    session.encoder.states.keep({})
    assert kept.text == session.ask("cats ?").text
    assert [r.text for r in kept.read] == ["cats"]


def test_what_is_read_is_what_is_looked_for(tokenizer, tmp_path, monkeypatch):
    """Of an input that is too long its end is read; the search is made with that end, cleaned as the run's data is."""
    data = DataConfig(limits=dataclasses.replace(DataConfig().limits, input=8), clean=CleanConfig(unicode="NFC"))
    session = Session("t", None, tiny_model(len(tokenizer)), tokenizer, Config(data=data), Seen(), "e")
    session.attach(str(tmp_path / "m.sqlite"), "anna", create=True)
    with session:
        session.remember("cafe\u0301")
        asked = []
        search = session.store.search
        monkeypatch.setattr(session.store, "search", lambda n, v, texts, *a: asked.append(texts[0]) or search(n, v, texts, *a))
        reply = session.ask("the red house " * 50 + "cafe\u0301")
        assert "the input is longer than the 8 tokens" in reply.notes[0]
        assert len(asked[0]) < 40
        assert asked[0].endswith("caf\u00e9")


def test_an_answer_that_does_not_end_is_said(session):
    session.config = dataclasses.replace(session.config, generate=GenerateConfig(max_tokens=2, min_tokens=2))
    assert "the answer did not end within generate.max_tokens=2" in session.ask("x").notes
    assert session.answer([]) == []


def test_filters_go_into_the_search(session):
    for n in range(40):
        session.remember(f"the red house number {n}")
    session.remember("the red house | is | old")
    (found,) = session.recall(["red house"], ("fact",))
    assert [e.text for e in found] == ["the red house | is | old"]
    (some,) = session.recall(["red house"])
    (others,) = session.recall(["red house"], (), frozenset(e.id for e in some))
    assert len(others) == 3
    assert not {e.id for e in some} & {e.id for e in others}
    assert [e.id for e in some] == sorted(e.id for e in some), "in the order they came"


def test_as_many_are_recalled_as_the_examples_saw(tokenizer):
    def recalled(seen, asked=-1):
        config = Config(store=StoreConfig(recall=asked))
        return Session("t", None, tiny_model(len(tokenizer)), tokenizer, config, seen, "e").recalled

    assert recalled(Seen(entries=1)) == 1
    assert recalled(Seen(entries=5)) == 5
    assert recalled(Seen(entries=200)) == 32
    assert recalled(Seen(entries=0)) == 1
    assert recalled(Seen(entries=5), 9) == 9
    assert recalled(Seen(entries=5), 0) == 0


def test_a_model_that_never_chose_among_entries_is_not_asked_to(tokenizer, tmp_path):
    session = Session("t", None, tiny_model(len(tokenizer)), tokenizer, Config(), Seen(entries=1, most_entries=1), "e")
    session.attach(str(tmp_path / "m.sqlite"), "anna", create=True)
    with session:
        session.store.put("anna", [Item("the red house", vector=np.ones(32, np.float32)), Item("old ships")])
        assert not session.recall.by_vector
        assert [e.text for e in session.recall(["ships"])[0]] == ["old ships"]


def test_entries_longer_than_the_run_learned_from_are_told_of(session):
    session.seen = Seen(entry_tokens=4)
    session.remember("anna keeps three grey cats there while peter sings of old ships at night by the river")
    reply = session.ask("cats")
    assert any("longer than the 4 tokens" in note and "memgpt memory import --run tiny" in note for note in reply.notes)


def test_answers_come_in_order_with_what_they_read(session):
    session.remember("anna keeps three cats")
    replies = session.answer([Question("cats ?"), Question("ships ?", [Entry("old ships")])])
    assert [r.text for r in replies[0].read] == ["anna keeps three cats"]
    assert {r.text for r in replies[1].read} == {"anna keeps three cats", "old ships"}
    assert {r.id for r in replies[1].read} == {1, None}


def test_no_store_is_said_to_be_missing(tokenizer):
    session = Session("t", None, tiny_model(len(tokenizer)), tokenizer, Config(), Seen(), "e")
    with pytest.raises(UsageError, match="no store is read: name one with --store"):
        session.remember("x")
    assert session.ask("x", memory=["the red house"]).read[0].text == "the red house"


def test_what_a_run_says_of_its_data_may_be_anything():
    """It may be somebody else's: what is no number or no kind is not known."""
    for odd in (
        None,
        5,
        [],
        {},
        {"entry tokens": 5},
        {"entry tokens": {"max": -1}, "kinds": {"evil": 2}},
        {"entries seen per example": {"p95": 10**12}},
    ):
        assert Seen.of(odd) == Seen()
    known = {"entries seen per example": {"p95": 3, "max": 4}, "entry tokens": {"median": 5, "max": 9}, "kinds": {"chunk": 2}}
    assert Seen.of(json.loads(json.dumps(known))) == Seen(3, 4, 9, 5, ("chunk",))


def test_a_stored_entry_reads_as_the_entry_it_is(session):
    session.remember("a | b | c")
    (stored,) = session.store.list("anna", Filter(kinds=("fact",)))
    assert as_entry(stored) == Entry("a | b | c", "fact", {"triple": ["a", "b", "c"]})
