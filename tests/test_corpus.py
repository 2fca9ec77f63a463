"""A corpus: entries that belong to no episode, from a file to what an example is trained on and what is read for its answer."""

import csv
import itertools
import json
import random
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from test_kills import losses

from memgpt_cli.config import Config, CorpusConfig, DataConfig, TokenizerConfig, TrainerConfig, compose
from memgpt_cli.data.candidates import Candidates
from memgpt_cli.data.collate import collate
from memgpt_cli.data.corpus import Corpus, open_corpus
from memgpt_cli.data.dataset import DATA_SET, EpisodeDataset
from memgpt_cli.data.guess import guess
from memgpt_cli.data.plan import Part
from memgpt_cli.data.pool import over_corpus
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.errors import ConfigError, UsageError
from memgpt_cli.evaluation.recalled import rank
from memgpt_cli.files import strangers
from memgpt_cli.schema import ModelConfig
from memgpt_cli.store import open_store
from memgpt_cli.tokenizer import load_tokenizer
from memgpt_cli.training.batches import EpisodeData
from memgpt_cli.training.fit import make_model, train
from memgpt_cli.training.losses import _evidence
from memgpt_cli.training.nearest import Nearest

TINY = {"d_model": 32, "n_heads": 2, "d_kv": 16, "d_ff": 48, "n_encoder_layers": 1, "n_decoder_layers": 1, "dropout": 0.0}
TOWNS = ("Bergen", "Lund", "Porto", "Graz", "Delft", "Cork", "Bruges", "Turku", "Gdansk", "Sibiu")
JOBS = ("baker", "pilot", "nurse", "tailor", "diver")


def people(count: int) -> list[tuple[str, str, str]]:
    rng = random.Random(3)
    names = [f"{a}{b}" for a in ("Al", "Be", "Cor", "Da", "El", "Fin") for b in ("na", "ro", "mik", "tus", "vy", "dor")]
    return [(name, rng.choice(TOWNS), rng.choice(JOBS)) for name in names[:count]]


def write_questions(folder: Path, count: int = 36) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "facts.tsv", "w", newline="") as file:
        rows = csv.writer(file, delimiter="\t")
        rows.writerow(("head", "relation", "tail"))
        for name, town, job in people(count):
            rows.writerows([(name, "lives in", town), (name, "works as", job)])
    for split, part in (("train", people(count)[:-6]), ("valid", people(count)[-6:])):
        with open(folder / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("question", "answers"))
            for name, town, job in part:
                rows.writerows([(f"where does {name} live ?", town), (f"what does {name} work as ?", f"{job}|the {job}")])


def settings(folder: Path, **changes: object) -> DataConfig:
    config = DataConfig(
        name="people", source="records", path=str(folder), files={"train": "train.csv", "valid": "valid.csv"},
        corpus=CorpusConfig(path=str(folder / "facts.tsv"), evidence=1, words=2, vectors=2, random=1),
        options={"input": "question", "target": "answer", "references": "answers", "separator": "|"},
        tokenizer=TokenizerConfig(vocab_size=320),
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def people_data(tmp_path_factory) -> tuple[Path, DataConfig]:
    raw = tmp_path_factory.mktemp("raw")
    write_questions(raw)
    config = settings(raw)
    return preprocess(config, tmp_path_factory.mktemp("data")).folder, config


def candidates_of(data: tuple[Path, DataConfig], split: str = "train") -> Candidates:
    corpus = open_corpus(data[0])
    assert corpus is not None
    return Candidates(corpus, data[0] / split, data[1].corpus, load_tokenizer(data[0]).encode)


def test_a_corpus_is_searched_and_read_by_the_same_entries(people_data):
    folder, _ = people_data
    corpus = Corpus(folder / "corpus")
    with open_store(str(folder / "corpus/memory.sqlite"), create=False) as store:
        entries = list(store.all("corpus"))
    assert [corpus.text(n) for n in range(len(corpus))] == [e.text for e in entries]
    assert corpus.entry.tolist() == [e.id for e in entries]
    tokenizer = EpisodeData(folder, Config(data=people_data[1])).tokenizer
    assert [corpus.ids(n) for n in range(len(corpus))] == tokenizer.encode_all([e.text for e in entries])
    assert corpus.sizes().tolist() == [len(corpus.ids(n)) for n in range(len(corpus))]
    assert not list(strangers(folder, DATA_SET)), "everything in it can be replaced by the next preprocessing"


def test_evidence_is_found_where_an_answer_stands_and_the_words_fit(people_data):
    folder, _ = people_data
    candidates, data = candidates_of(people_data), EpisodeDataset(folder / "train")
    for n, (name, town, job) in enumerate(people(36)[:-6]):
        for example, wanted in ((2 * n, f"{name} | lives in | {town}"), (2 * n + 1, f"{name} | works as | {job}")):
            linked = candidates.linked(example, 0)
            assert name in data[example].examples[0].input
            assert [candidates.corpus.text(row) for row in linked.evidence] == [wanted]
            assert linked.found
            assert set(linked.evidence) <= set(linked.words)
    changes = json.loads((folder / "manifest.json").read_text())["statistics"]["train"]["changes"]
    assert changes == {"examples whose evidence in the corpus is found: the best by words that hold an answer": 60}


@pytest.mark.parametrize("named", [["k1"], "k1", "Anna keeps a grey heron.", ["k1", "nobody's"]])
def test_evidence_that_the_data_name_is_that_evidence(tmp_path, named):
    passages = [
        {"id": f"k{n}", "text": text} for n, text in enumerate(("A heron is grey.", "Anna keeps a grey heron.", "Grey."))
    ]
    (tmp_path / "passages.jsonl").write_text("".join(json.dumps(p) + "\n" for p in passages))
    record = {"input": "what colour is the heron ?", "target": "grey", "evidence": named}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    config = settings(tmp_path, files={"train": "train.jsonl"}, options={}, corpus=CorpusConfig(path=f"{tmp_path}/*ges.jsonl"))
    result = preprocess(config, tmp_path / "data")
    linked = candidates_of((result.folder, config)).linked(0, 0)
    assert (linked.evidence, linked.found) == ([1], False)
    changes = result.manifest["statistics"]["train"]["changes"]
    assert changes["examples whose evidence in the corpus the data name"] == 1
    assert changes.get("names of evidence that the corpus does not hold", 0) == ("nobody's" in named)


def test_a_store_is_a_corpus_and_so_is_a_folder_of_documents(tmp_path):
    from memgpt_cli.store import Item

    write_questions(tmp_path, 12)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# Towns\n\nAlna lives in Cork.\n\n" + "A long sentence about nothing at all. " * 30)
    with open_store(str(tmp_path / "kb.sqlite")) as store:
        store.put("anna", [Item("Alna lives in Cork."), Item("said before", searchable=False)])
    folder = preprocess(settings(tmp_path, corpus=CorpusConfig(path=str(tmp_path / "docs"))), tmp_path / "1").folder
    corpus = open_corpus(folder)
    assert corpus is not None
    assert max(len(corpus.text(n)) for n in range(len(corpus))) <= 400
    own = settings(tmp_path, corpus=CorpusConfig(path=str(tmp_path / "kb.sqlite"), namespace="anna"))
    first = preprocess(own, tmp_path / "2")
    corpus = open_corpus(first.folder)
    assert corpus is not None
    assert [corpus.text(n) for n in range(len(corpus))] == ["Alna lives in Cork."]
    assert preprocess(own, tmp_path / "2").already_there
    with open_store(str(tmp_path / "kb.sqlite")) as store:
        store.put("anna", [Item("Bena lives in Lund.")])
    assert not preprocess(own, tmp_path / "2").already_there, "the store has changed"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none.tsv", "no such file or folder"),
        ("*.nothing", "no such file or folder"),
        ("empty", "holds no document that can be read"),
    ],
)
def test_a_corpus_that_is_not_there_is_named(tmp_path, path, said):
    write_questions(tmp_path, 12)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=said):
        preprocess(settings(tmp_path, corpus=CorpusConfig(path=str(tmp_path / path))), tmp_path / "data")


def test_rows_that_bring_passages_make_it_hard_for_each_other(tmp_path):
    """`data.corpus=own`: what other rows brought and shares words stands beside a row's own passage, which is its evidence."""
    with open(tmp_path / "train.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("question", "answer", "context"))
        rows.writerows((f"where does {name} live ?", town, f"{name} lives in {town}.") for name, town, _ in people(36))
    config = settings(
        tmp_path, files={"train": "train.csv"}, hold_out={"valid": 0.2}, distractors=16,
        options={"input": "question", "target": "answer", "memory": "context"}, corpus=CorpusConfig(path="own", words=3, vectors=0),
    )  # fmt: skip
    result = preprocess(config, tmp_path / "data")
    train_, candidates = EpisodeDataset(result.folder / "train"), candidates_of((result.folder, config))
    assert {candidates.corpus.text(n) for n in range(len(candidates.corpus))} == {e.entries[0].text for e in train_}
    assert result.manifest["statistics"]["train"]["entries seen per example"]["max"] == 17, "as with distractors"
    rows = [train_.row(n) for n in range(3)]
    (joined,) = over_corpus(rows, [Part(n, 0, 1, 9) for n in range(3)], candidates, {}, random.Random(1))
    there = [tuple(ids) for ids in joined.entry_ids]
    assert len(there) == len(set(there)) >= 8
    for row, evidence in zip(rows, joined.evidence, strict=True):
        assert [joined.entry_ids[n] for n in evidence] == row.entry_ids
    assert joined.found == [False] * 3


def test_how_many_entries_are_brought_concerns_training_alone(people_data, tmp_path):
    folder, config = people_data
    again = preprocess(replace(config, corpus=replace(config.corpus, words=7, random=0)), folder.parent)
    assert again.already_there


@pytest.mark.parametrize("near", [{}, {(n, 0): list(range(5, 25)) for n in range(60)}])
def test_a_batch_reads_all_that_its_examples_bring_once(people_data, near):
    """Against a plain reading of what was picked: the union, everybody's evidence where it is, no target among it."""
    data, candidates = EpisodeDataset(people_data[0] / "train"), candidates_of(people_data)
    chosen = [3, 8, 11, 40]
    parts = [Part(n, 0, 1, 10) for n in chosen]
    (joined,) = over_corpus([data.row(n) for n in chosen], parts, candidates, near, random.Random(5))
    there = [tuple(ids) for ids in joined.entry_ids]
    assert len(there) == len(set(there))
    assert all(seen == len(there) for seen in joined.sees)
    rows = {tuple(candidates.corpus.ids(n)): n for n in range(len(candidates.corpus))}
    for n, example in enumerate(chosen):
        assert joined.name(n) == (data[example].id, 0)
        evidence = {rows[there[place]] for place in joined.evidence[n]}
        assert evidence == set(candidates.linked(example, 0).evidence)
        assert joined.found[n]
    assert 4 * 3 <= len(there) <= 4 * candidates.config.brings
    batch = collate([joined])
    assert batch.found.tolist() == [[True] * 4]
    assert len(batch.evidence) == 4


def test_an_entry_that_says_the_target_is_not_read_for_it(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"text": "grey"}\n{"text": "The heron is grey."}\n')
    (tmp_path / "train.jsonl").write_text('{"input": "what colour is the heron ?", "target": "grey"}\n')
    config = settings(
        tmp_path, files={"train": "train.jsonl"}, options={}, corpus=CorpusConfig(path=f"{tmp_path}/corpus.jsonl")
    )
    data = (preprocess(config, tmp_path / "data").folder, config)
    row, candidates = EpisodeDataset(data[0] / "train").row(0), candidates_of(data)
    (joined,) = over_corpus([row], [Part(0, 0, 1, 10)], candidates, {(0, 0): [0, 1]}, random.Random(1))
    assert [candidates.corpus.ids(1)] == joined.entry_ids


def test_evidence_that_the_data_name_is_read_even_where_it_is_the_answer(tmp_path):
    """Answers that are asked for word for word, as in a list of frequent questions: `evidence` is no memory, and doubles keep their ids."""
    texts = ("Ring at the gate.", "Ring at the gate.", "Ask the porter.")
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"id": f"a{n}", "text": t}) + "\n" for n, t in enumerate(texts)))
    row = {"question": "how do i get in ?", "answer": "Ring at the gate.", "evidence": ["a1", ""]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    overrides, said = guess(str(tmp_path / "train.jsonl"), ["data.corpus=corpus.jsonl"])
    assert not any("memory" in o for o in overrides), said
    config = compose([*overrides, f"data.corpus={tmp_path}/corpus.jsonl", "data.tokenizer.vocab_size=320"]).data
    config = replace(config, hold_out={})
    data = (preprocess(config, tmp_path / "data").folder, config)
    row, candidates = EpisodeDataset(data[0] / "train").row(0), candidates_of(data)
    assert candidates.linked(0, 0).evidence == [0]
    (joined,) = over_corpus([row], [Part(0, 0, 1, 10)], candidates, {}, random.Random(1))
    assert [joined.entry_ids[n] for n in joined.evidence[0]] == [candidates.corpus.ids(0)]
    assert joined.found == [False]


def test_passwords_and_names_that_no_corpus_can_follow_are_refused():
    with pytest.raises(ConfigError, match="pgpass"):
        compose(["data=records", "data.corpus=postgresql://anna:s3cret@host/db"])
    with pytest.raises(ConfigError, match="leave one of the two out"):
        compose(["data=records", "data.corpus=kb.tsv", "data.augment.rename=auto"])
    with pytest.raises(ConfigError, match="at least 1"):
        compose(["eval.corpus_sizes=[0]"])
    assert compose(["data=records", "data.corpus=docs/"]) == compose(["data=records", "data.corpus=./docs"])
    assert compose(["data=records", "data.corpus=docs"]).model.memory.top_k == 32
    assert compose(["data=records"]).data.corpus.own


def test_a_table_is_of_passages_where_its_first_line_says_so(tmp_path):
    from memgpt_cli.ingest.chunk import Cut
    from memgpt_cli.ingest.documents import read_document

    def read(table: str) -> list[tuple[str, dict]]:
        (tmp_path / "t.tsv").write_text(table)
        return [(item.text, item.meta) for item in read_document(tmp_path / "t.tsv", Cut())]

    assert read("id\ttext\n7\tAnna is tall.\n") == [("Anna is tall.", {"id": "7"})]
    assert [text for text, _ in read("text\tis a\tthing\nAnna\tlives in\tRome\n")] == [
        "text | is a | thing",
        "Anna | lives in | Rome",
    ]
    (tmp_path / "t.tsv").write_text("id\ttext\n7\n")
    assert [str(error) for error in read_document(tmp_path / "t.tsv", Cut())] == [
        f"{tmp_path}/t.tsv:2: 1 fields, expected 2 (id, text)"
    ]


def test_what_sees_entries_of_its_own_in_their_order_keeps_them_behind_what_it_brings(people_data):
    data, candidates = EpisodeDataset(people_data[0] / "train"), candidates_of(people_data)
    plain = data.row(0)
    talk = replace(
        plain, entry_ids=[[5], [6]], kinds=["turn"] * 2, entries=["x", "y"], entry_meta=["", ""], tasks=["dialogue"],
        sees=[1], evidence=[[0]],
    )  # fmt: skip
    joined, alone = over_corpus([talk, data.row(2)], [Part(0, 0, 1, 9), Part(2, 0, 1, 9)], candidates, {}, random.Random(1))
    assert joined.name(0) == (data[2].id, 0)
    assert [5] not in joined.entry_ids
    brought = len(alone.entry_ids) - 2
    assert alone.entry_ids[brought:] == [[5], [6]]
    assert alone.sees == [brought + 1]
    assert brought in alone.evidence[0]
    assert alone.found == [False]


def test_of_several_right_answers_the_one_is_asked_for_that_the_evidence_in_the_batch_bears(tmp_path):
    films = "".join(f"Film {n}\tdirected by\tAnna\n" for n in range(4))
    (tmp_path / "facts.tsv").write_text(films + "".join(f"Film {n}\tdirected by\tOtto\n" for n in range(4, 60)))
    (tmp_path / "train.csv").write_text("question,answers\nwhat has Anna directed ?,Film 2|Film 0|Film 99|Film 1\n")
    config = settings(tmp_path, files={"train": "train.csv"})
    data = (preprocess(config, tmp_path / "data").folder, config)
    row, candidates, tokenizer = EpisodeDataset(data[0] / "train").row(0), candidates_of(data), load_tokenizer(data[0])
    asked = Counter()
    for seed in range(40):
        (joined,) = over_corpus([row], [Part(0, 0, 1, 9)], candidates, {(0, 0): [*range(60)]}, random.Random(seed))
        answer = tokenizer.decode(joined.target_ids[0])
        (evidence,) = joined.evidence[0]
        assert tokenizer.decode(joined.entry_ids[evidence]) == f"{answer} | directed by | Anna"
        asked[answer] += 1
    assert set(asked) == {"Film 0", "Film 1", "Film 2"}, "of what is known to be right only one is read"


def test_examples_without_evidence_bring_the_best_by_words(people_data):
    candidates = candidates_of(people_data)
    linked = replace(candidates.linked(0, 0), evidence=[], bears=[])
    picked = candidates.pick(linked, None, random.Random(1))
    assert picked[:5] == linked.words[:5], "evidence, words and vectors of the configuration, all by words"


def test_of_evidence_that_was_found_any_piece_suffices(people_data):
    """-log of the sum of probabilities, against a loop over the pieces; of what the data name all of it is asked for."""
    data, candidates = EpisodeDataset(people_data[0] / "train"), candidates_of(people_data)
    (joined,) = over_corpus([data.row(0), data.row(2)], [Part(0, 0, 1, 9), Part(2, 0, 1, 9)], candidates, {}, random.Random(1))
    joined = replace(joined, evidence=[[0, 1], [2, 3]], found=[True, False])
    batch = collate([joined])
    logp = torch.randn(1, 2, len(joined.entry_ids) + 1).log_softmax(-1)
    loss, pieces = _evidence(batch, logp)
    wanted = -torch.log(logp[0, 0, 0].exp() + logp[0, 0, 1].exp()) - logp[0, 1, 2] - logp[0, 1, 3]
    assert torch.allclose(loss, wanted)
    assert int(pieces) == 3


def trained(data: tuple[Path, DataConfig], run: Path, **changes: object) -> Config:
    trainer = TrainerConfig(
        max_steps=12, batch_tokens=700, val_every=6, val_batches=2, checkpoint_every=1, keep_checkpoints=20, log_every=1, threads=1,
        refresh_every=3,
    )  # fmt: skip
    config = Config(data=data[1], model=ModelConfig(**TINY), trainer=replace(trainer, **changes))  # type: ignore[arg-type]
    train(config, data[0], run, Console(quiet=True))
    return config


@pytest.mark.parametrize(
    ("every", "stop", "beside"),
    [
        *((3, 2, False), (3, 3, False), (3, 4, False), (3, 7, False), (1, 5, False), (2, 6, False)),
        *((6, 6, True), (6, 7, True), (6, 8, True), (6, 9, True), (1, 5, True), (4, 8, True)),
    ],
)
def test_a_resumed_training_reads_what_it_would_have_read(people_data, tmp_path, every, stop, beside):
    """Also just before, at and after a search of the corpus by the model, and while one goes on beside the training: losses
    and weights are the same to the bit."""
    changes = {"refresh_every": every, "refresh_beside": beside}
    trained(people_data, tmp_path / "whole", **changes)
    trained(people_data, tmp_path / "parts", **changes)
    for checkpoint in (tmp_path / "parts/checkpoints").iterdir():
        if int(checkpoint.name[5:]) > stop:
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    trained(people_data, tmp_path / "parts", **changes)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_the_model_searches_the_corpus_itself(people_data, tmp_path, monkeypatch):
    """What is found near the examples to come is what a plain product of all vectors finds."""
    from memgpt_cli.model.pooling import means
    from memgpt_cli.tokenizer import EOS

    seen = []
    search = Nearest._search

    def searched(self, model, coming):
        found = search(self, model, coming)
        queries = model.retriever.queries(means(model, [[*ids, EOS] for _, _, ids in coming]))
        vectors = model.retriever.vectors(means(model, [[*self.corpus.ids(n), EOS] for n in range(len(self.corpus))]))
        scores = queries @ vectors.T
        assert torch.allclose(
            scores.gather(1, found[1].long()), scores.sort(descending=True).values[:, : found[1].shape[1]], atol=1e-5
        )
        seen.append(Counter(map(tuple, found[0].tolist())))
        return found

    monkeypatch.setattr(Nearest, "_search", searched)
    monkeypatch.setattr("memgpt_cli.training.nearest._ROWS", 17)
    trained(people_data, tmp_path / "run")
    assert len(seen) == 3
    assert all(0 < len(found) <= 60 for found in seen)


def test_training_goes_on_while_the_model_searches(people_data, tmp_path, monkeypatch):
    """The steps up to half a window later, and a checkpoint at each of them, do not wait for what is found."""
    search, step, asked = Nearest._search, Nearest.on_train_batch_end, []
    passed = threading.Event()

    def searched(self, model, coming):
        assert passed.wait(60), "training waited for the search"
        return search(self, model, coming)

    def stepped(self, trainer, *rest):
        step(self, trainer, *rest)
        asked.append((trainer.global_step, bool(self._windows)))
        if trainer.global_step == 9:
            passed.set()

    monkeypatch.setattr(Nearest, "_search", searched)
    monkeypatch.setattr(Nearest, "on_train_batch_end", stepped)
    trained(people_data, tmp_path / "run", refresh_every=8, refresh_beside=True, max_steps=14)
    assert [step for step, found in asked if not found] == [*range(1, 10)]


def test_a_search_is_given_up_when_training_ends_early(people_data, tmp_path, monkeypatch):
    begun, ended = threading.Event(), []

    def searched(self, model, coming):
        begun.set()
        ended.append(self._stop.wait(60))
        return torch.zeros(0, 2), torch.zeros(0, 1)

    def stepped(self, trainer, *rest):
        if trainer.global_step == 9:
            assert begun.wait(60)
            raise MemoryError("of this test")

    monkeypatch.setattr(Nearest, "_search", searched)
    monkeypatch.setattr(Nearest, "on_train_batch_end", stepped)
    with pytest.raises(MemoryError, match="of this test"):
        trained(people_data, tmp_path / "run", refresh_every=8, refresh_beside=True, max_steps=14)
    assert ended == [True]


def test_with_other_devices_the_coming_batches_are_searched_for(people_data, tmp_path):
    """Where two processes read batches 0 to 4, one goes on with batch 8 at step 4: what was found for others is dropped."""
    config = Config(data=people_data[1], model=ModelConfig(**TINY), trainer=TrainerConfig(max_steps=12, batch_tokens=700))
    data = EpisodeData(people_data[0], config)
    nearest = data.nearest
    assert nearest is not None
    nearest.load_state_dict({"offset": 0, "windows": [[5, torch.tensor([[0, 0]]), torch.tensor([[1]])]], "searching": None})
    data.stream(start=8)
    nearest.every = 4
    nearest.on_train_start(SimpleNamespace(global_step=4), None)
    assert nearest(6) == {}
    module = SimpleNamespace(best_guess=make_model(config, data.tokenizer))
    nearest.on_train_batch_start(SimpleNamespace(global_step=4, max_steps=12), module, None, 0)
    coming = {
        (part.episode, n)
        for number, _, batches in itertools.islice(data.stream().plans(10), 4)
        for part in batches[0]
        for n in range(part.first, part.last)
    }
    assert set(nearest(10)) == coming


def test_ranks_over_the_whole_store_are_those_of_a_plain_search(people_data, tmp_path, monkeypatch):
    from memgpt_cli.inference.session import Session

    trained(people_data, tmp_path / "run", max_steps=2)
    with Session.open(str(tmp_path / "run"), store=str(people_data[0] / "corpus/memory.sqlite"), namespace="corpus") as session:
        session.add_missing_vectors()
        ranked = rank(people_data[0] / "valid", session)
        entries = list(session.store.all("corpus"))
        scores = session.encoder.queries([x.input for e in EpisodeDataset(people_data[0] / "valid") for x in e.examples])
        scores = scores @ session.encoder.vectors([e.text for e in entries]).T
        wanted = []
        for row, episode in zip(scores, EpisodeDataset(people_data[0] / "valid"), strict=True):
            answers = [answer.lower() for answer in episode.examples[0].all_references]
            order = sorted(range(len(entries)), key=lambda n: -row[n])
            wanted.append(next(place for place, n in enumerate(order, 1) if any(a in entries[n].text.lower() for a in answers)))
    assert ranked.ranks["vectors"] == wanted
    assert [len(ranks) for ranks in ranked.ranks.values()] == [12] * 3
    recall = {score.name: score.value for score in ranked.scores("vectors", 0)}
    assert recall["recall@8"] == pytest.approx(100 * sum(rank <= 8 for rank in wanted) / 12)
    assert recall["mrr"] == pytest.approx(100 * sum(1 / rank for rank in wanted) / 12)


def test_vectors_count_as_much_as_the_validation_set_shows(people_data, tmp_path):
    """Of vectors that were not trained and point anywhere nothing is left; of those that know the answer all but a tenth."""
    from memgpt_cli.evaluation.recalled import best_share
    from memgpt_cli.inference.session import Session

    trained(people_data, tmp_path / "run", max_steps=1)
    split = people_data[0] / "valid"
    by_text = {}
    for episode in EpisodeDataset(split):
        by_text |= {example.input: example.all_references for example in episode.examples}
    with Session.open(str(tmp_path / "run"), store=str(people_data[0] / "corpus/memory.sqlite"), namespace="corpus") as session:
        session.add_missing_vectors()
        entries = list(session.store.all("corpus"))
        own = {e.text: session.encoder.vectors([e.text])[0] for e in entries}

        def sure(texts):
            return np.stack([next(own[e.text] for e in entries if any(a in e.text for a in by_text[t])) for t in texts])

        session.encoder.queries = lambda texts: -sure(texts)
        assert best_share(split, session) == 0
        session.store.search = lambda namespace, vectors=None, texts=None, k=8: type(session.store).search(  # words mislead
            session.store, namespace, vectors, None if texts is None else ["lives in works as"] * len(texts), k
        )
        session.encoder.queries = sure
        assert best_share(split, session) > 0.5


def test_from_a_csv_and_a_corpus_to_scores_over_all_of_it(terminal):
    """The commands as they are typed: the corpus is what eval reads, and it says how each ranking finds what is right."""
    write_questions(terminal.folder)
    small = ("trainer.max_steps=4", "trainer.threads=1", "trainer.val_every=4", "model.d_model=32", "trainer.batch_tokens=1000")
    own = ("data=train.csv", "data.corpus=facts.tsv", "data.options.separator=|", "data.hold_out={valid: 0.3}")
    made = terminal("preprocess", *own)
    assert made.code == 0, made.err
    assert "evidence in the corpus is found" in made.out
    told = terminal("train", *own, "run=r", *small)
    assert told.code == 0, told.err
    assert "recall: vectors count" in told.out
    assert 0 <= json.loads((terminal.folder / "runs/r/model/config.json").read_text())["notes"]["share of vectors"] < 1
    said = terminal("eval", "--run", "r", "eval.corpus_sizes=[40]", "eval.ablation_examples=4", "eval.split=valid", "--json")
    assert said.code == 0, said.err
    scores = json.loads(said.out)
    assert [row["entries"] for row in scores["retrieval"]] == [40, 72]
    assert set(scores["retrieval"][1]["rankings"]) == {"words", "vectors", "both"}
    words = {s["name"]: s["value"] for s in scores["retrieval"][1]["rankings"]["words"]}
    assert words["recall@32"] == 100
    assert "exact" in [s["name"] for s in scores["retrieval"][0]["written"]]
    groups = [s for s in scores["store"] if s["name"].startswith("exact: right entry")]
    assert sum(s["n"] for s in groups) == len(EpisodeDataset(terminal.folder / "data/train/valid"))
    shown = terminal("eval", "--run", "r", "eval.corpus_sizes=[40]", "eval.split=valid")
    assert "found among all entries of the store" in shown.out
    assert "recall@32" in shown.out


def test_training_in_bf16_reads_a_corpus(people_data, tmp_path):
    words = replace(ModelConfig(**TINY), copy=False, memory=replace(ModelConfig(**TINY).memory, words=True))
    trainer = TrainerConfig(max_steps=4, batch_tokens=700, val_batches=1, refresh_every=2, threads=1, precision="bf16-true")
    config = Config(data=people_data[1], model=words, trainer=trainer)
    train(config, people_data[0], tmp_path / "run", Console(quiet=True))
    with pytest.raises(UsageError, match="bf16-mixed"):
        train(replace(config, model=replace(words, copy=True)), people_data[0], tmp_path / "other", Console(quiet=True))
    assert (tmp_path / "run/model/model.safetensors").is_file()


def test_files_of_the_data_are_no_documents_of_their_corpus(tmp_path):
    """Else a question would read its own answer; what cannot be read is counted."""
    folder = tmp_path / "docs"
    folder.mkdir()
    rows = [{"question": f"Where is P{n}?", "answer": f"City{n}", "note": "x"} for n in range(20)]
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "note"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "all.txt").write_text("".join(f"P{n} is in City{n}.\n\n" for n in range(20)))
    (folder / "old.docx").write_bytes(b"PK")
    config = DataConfig(
        name="mine", source="records", path=str(folder), files={"train": ["rows.csv"]}, hold_out={"valid": 0.1},
        options={"input": "question", "target": "answer"}, corpus=CorpusConfig(path=str(folder), chunk=40),
        tokenizer=TokenizerConfig(vocab_size=300),
    )  # fmt: skip
    made = preprocess(config, tmp_path / "data")
    with open_store(str(made.folder / "corpus/memory.sqlite"), create=False) as store:
        assert not any("Where is" in entry.text for entry in store.all("corpus"))
    changes = made.manifest["corpus"]["changes"]
    assert changes["files of the data themselves, no documents"] == 1
    assert changes[".docx files, which cannot be read"] == 1
