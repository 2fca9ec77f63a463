"""Preprocessing: whole or not at all, a second run is a no-op, bad input is named by file and line and loses nothing else."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memgpt_cli.config import CleanConfig, DataConfig, LimitConfig, TokenizerConfig
from memgpt_cli.data.clean import split_text
from memgpt_cli.data.dataset import MANIFEST, EpisodeDataset
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.errors import ConfigError, DataError

GOOD = [
    {"input": f"what is number {n} ?", "target": f"it is {n}", "memory": [f"fact {n} about {n * 7}", "other"]}
    for n in range(12)
]


def records(tmp_path, lines, **changes):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    with open(raw / "train.jsonl", "wb") as file:
        for line in lines:
            file.write(
                line
                if isinstance(line, bytes)
                else (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)).encode()
            )
            file.write(b"\n")
    config = DataConfig(
        name="r", source="records", path=str(raw), files={"train": "train.jsonl"}, tokenizer=TokenizerConfig(vocab_size=320)
    )
    return replace(config, **changes)


def inputs(folder, split="train"):
    return [x.input for e in EpisodeDataset(folder / split) for x in e.examples]


BAD = {
    "broken JSON": (b'{"input": "x", ', r"train.jsonl:4: broken JSON: .* at column"),
    "a missing field": (b'{"input": "x"}', r"train.jsonl:4: field 'target' is missing, found input"),
    "a field of another type": (b'{"input": 3, "target": "y"}', r"train.jsonl:4: field 'input' is int, expected text"),
    "invalid UTF-8": (b'{"input": "\xff", "target": "y"}', r"train.jsonl:4: invalid UTF-8 at byte 11 of the line \(0xff\)"),
    "an empty target": (b'{"input": "x", "target": " "}', r"train.jsonl:4: example 0 has an empty target"),
    "a 10 MB line": (
        b'{"input": "' + b"x" * 10_000_000 + b'", "target": "y"}',
        r"train.jsonl:4: a line of 10,0\d\d,\d\d\d bytes, expected at most",
    ),
    "no object": (b"[1, 2]", r"train.jsonl:4: expected a JSON object, found list"),
    "memory of another type": (
        b'{"input": "x", "target": "y", "memory": [7]}',
        r"train.jsonl:4: field 'memory' holds 7, expected texts or triples",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_stops_the_run_with_file_line_and_reason(tmp_path, name):
    line, message = BAD[name]
    config = records(tmp_path, [*GOOD[:3], line, *GOOD[3:]])
    with pytest.raises(DataError, match=message):
        preprocess(config, tmp_path / "data")
    assert not (tmp_path / "data" / "r").exists()
    assert not list((tmp_path / "data").glob(".*partial*"))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_in_quarantine_loses_nothing_else(tmp_path, name):
    line, message = BAD[name]
    config = records(tmp_path, [*GOOD[:3], line, *GOOD[3:]], on_error="quarantine")
    result = preprocess(config, tmp_path / "data")
    assert inputs(result.folder) == [g["input"] for g in GOOD]
    (rejected,) = [json.loads(row) for row in (result.folder / "rejects.jsonl").read_text().splitlines()]
    assert rejected["reason"] in message.replace("\\", "") or rejected["reason"].split(",")[0].split(":")[0] in message
    assert result.manifest["statistics"]["train"]["changes"]["records rejected"] == 1


def test_a_second_run_is_a_no_op_and_a_changed_one_is_not(tmp_path):
    config = records(tmp_path, GOOD)
    first = preprocess(config, tmp_path / "data")
    stamp = (first.folder / MANIFEST).stat().st_mtime_ns
    again = preprocess(config, tmp_path / "data")
    assert again.already_there
    assert (again.folder / MANIFEST).stat().st_mtime_ns == stamp
    assert not preprocess(replace(config, clean=CleanConfig(unicode="NFC")), tmp_path / "data").already_there
    records(tmp_path, GOOD[:5])
    changed = preprocess(config, tmp_path / "data")
    assert not changed.already_there
    assert len(inputs(changed.folder)) == 5


def test_the_same_source_gives_the_same_bytes(tmp_path):
    config = records(tmp_path, GOOD)
    folders = [preprocess(config, tmp_path / name).folder for name in ("one", "two")]
    assert (folders[0] / "train" / "data.arrow").read_bytes() == (folders[1] / "train" / "data.arrow").read_bytes()


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path):
    config = records(tmp_path, [{**GOOD[0], "input": f"question {n} ?"} for n in range(60000)])
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom memgpt_cli.config import build, DataConfig\n"
        "from memgpt_cli.data.preprocess import preprocess\n"
        "preprocess(build(DataConfig, json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    from memgpt_cli.config import to_dict

    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(to_dict(config)), str(tmp_path / "data")])
    deadline = time.monotonic() + 60
    while not list((tmp_path / "data").glob(".r.partial-*/train")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "data" / "r").exists()
    small = records(tmp_path, GOOD)
    assert len(inputs(preprocess(small, tmp_path / "data").folder)) == len(GOOD)
    assert not list((tmp_path / "data").glob(".*partial*")), "what the killed run left is cleared away"


def test_duplicates_and_lengths_are_counted(tmp_path):
    lines = [
        *GOOD,
        GOOD[0],
        {"input": "q", "target": "word " * 400},
        {"input": "long " * 500, "target": "yes"},
        {"input": "crlf\r\nhere", "target": "a"},
    ]
    config = records(tmp_path, lines, limits=LimitConfig(input=50, target=40, entry=4))
    result = preprocess(config, tmp_path / "data")
    changes = result.manifest["statistics"]["train"]["changes"]
    assert changes["episodes dropped: exact duplicate"] == 1
    assert changes["targets truncated to limits.target"] == 1
    assert changes["inputs truncated to limits.input"] == 1
    assert changes["newlines normalised"] == 1
    assert changes["entries split: longer than limits.entry"] > 0
    for row in EpisodeDataset(result.folder / "train").rows:
        assert all(len(i) <= 4 for i in row["entry_ids"])
        assert all(len(i) <= 50 for i in row["input_ids"])
        assert all(len(i) <= 40 for i in row["target_ids"])
    truncated = next(e for e in EpisodeDataset(result.folder / "train") if e.examples[0].target.startswith("word"))
    assert truncated.examples[0].all_references == (("word " * 400),), "scores are still against the whole reference"


def test_limits_can_stop_or_drop(tmp_path):
    lines = [*GOOD, {"input": "q", "target": "word " * 400}]
    with pytest.raises(DataError, match=r"an target of \d+ tokens, limits.target is 40"):
        preprocess(records(tmp_path, lines, limits=LimitConfig(target=40, on_long_target="stop")), tmp_path / "data")
    result = preprocess(records(tmp_path, lines, limits=LimitConfig(target=40, on_long_target="drop")), tmp_path / "data")
    assert len(inputs(result.folder)) == len(GOOD)


def test_csv_and_parquet_hold_the_same_records(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.csv").write_text("q,a\n" + "".join(f'"what, {n}?",answer {n}\n' for n in range(6)))
    pq.write_table(
        pa.table({"q": [f"what, {n}?" for n in range(6)], "a": [f"answer {n}" for n in range(6)]}), raw / "a.parquet"
    )
    found = []
    for file in ("a.csv", "a.parquet"):
        options = {"input": "q", "target": "a"}
        config = DataConfig(
            name=file,
            source="records",
            path=str(raw),
            files={"train": file},
            options=options,
            tokenizer=TokenizerConfig(vocab_size=320),
        )
        found.append(inputs(preprocess(config, tmp_path / "data").folder))
    assert found[0] == found[1] == [f"what, {n}?" for n in range(6)]


def test_a_parquet_column_of_the_wrong_type_is_named(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    pq.write_table(pa.table({"input": [1, 2], "target": ["a", "b"]}), raw / "a.parquet")
    config = DataConfig(name="p", source="records", path=str(raw), files={"train": "a.parquet"})
    with pytest.raises(DataError, match=r"a.parquet: column 'input' is int64, expected string"):
        preprocess(config, tmp_path / "data")


def test_a_saved_datasets_folder_is_read(tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"input": g["input"], "target": g["target"], "memory": g["memory"]} for g in GOOD])
    DatasetDict({"train": rows, "validation": rows.select(range(3))}).save_to_disk(str(tmp_path / "hub"))
    files = {"train": "hub", "valid": "hub"}
    config = DataConfig(name="h", source="records", path=str(tmp_path), files=files, tokenizer=TokenizerConfig(vocab_size=320))
    result = preprocess(config, tmp_path / "data")
    assert len(inputs(result.folder)) == 12
    assert len(inputs(result.folder, "valid")) == 3


def test_held_out_episodes_are_taken_from_training(tmp_path):
    config = records(tmp_path, GOOD, hold_out={"valid": 0.25})
    result = preprocess(config, tmp_path / "data")
    train, valid = inputs(result.folder), inputs(result.folder, "valid")
    assert len(valid) == 3
    assert sorted(train + valid) == sorted(g["input"] for g in GOOD)


def test_parts_of_a_document_are_held_out_together(tmp_path):
    """A part's entries are the part before it: split between training and test, they would give the answers away."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for n in range(6):
        (raw / f"book{n}.txt").write_text(" ".join(f"Sentence {k} of book {n}." for k in range(150)))
    config = DataConfig(
        name="t", source="text", path=str(raw), files={"train": "*.txt"}, hold_out={"valid": 0.1, "test": 0.2},
        options={"window": 100, "chunk": 80, "memory": 300, "document": 1500}, tokenizer=TokenizerConfig(vocab_size=320),
    )  # fmt: skip
    folder = preprocess(config, tmp_path / "data").folder
    documents = {s: {e.meta["document"] for e in EpisodeDataset(folder / s)} for s in ("train", "valid", "test")}
    assert all(documents.values())
    assert not documents["train"] & documents["test"]
    assert not documents["train"] & documents["valid"]


def test_files_that_are_not_there_are_named(tmp_path):
    config = records(tmp_path, GOOD, files={"train": "nothing-*.jsonl"})
    with pytest.raises(ConfigError, match=r"no file matches .*nothing-\*.jsonl: set data.path"):
        preprocess(config, tmp_path / "data")


@pytest.mark.parametrize("text", ["a b c d e f", "One. Two! Three? 四。五", "x" * 50, "a\n\nb\nc " * 9, " lead and trail "])
def test_splitting_keeps_every_character(text):
    parts = split_text(text, lambda part: len(part) <= 6)
    assert "".join(parts) == text
    assert all(part.strip() for part in parts)
    assert all(len(part) <= 6 or len(part.strip()) <= 6 for part in parts)


def test_another_translation_memory_is_another_data_set(tmp_path):
    """What is read beside the files counts for what is up to date as well."""
    for name in ("train.en", "train.de", "memory.en", "memory.de"):
        (tmp_path / name).write_text("".join(f"{name} the red house {n}\n" for n in range(12)))
    options = {"memory_source": "memory.en", "memory_target": "memory.de"}
    files = {"train": ["train.en", "train.de"]}
    tokenizer = TokenizerConfig(vocab_size=320)
    config = DataConfig(name="p", source="parallel", path=str(tmp_path), files=files, options=options, tokenizer=tokenizer)
    assert not preprocess(config, tmp_path / "data").already_there
    assert preprocess(config, tmp_path / "data").already_there
    (tmp_path / "memory.de").write_text("".join(f"anders {n}\n" for n in range(12)))
    assert not preprocess(config, tmp_path / "data").already_there


@pytest.mark.parametrize(
    ("shares", "counts"),
    [({"valid": 0.9, "test": 0.05}, (1, 8, 1)), ({"valid": 0.1, "test": 0.1}, (8, 1, 1)), ({"test": 0.5}, (5, 0, 5))],
)
def test_no_split_is_held_out_empty(tmp_path, shares, counts):
    (tmp_path / "r.jsonl").write_text("".join(json.dumps({"input": f"q {n}", "target": f"a {n}"}) + "\n" for n in range(10)))
    config = DataConfig(
        name="d",
        source="records",
        path=str(tmp_path),
        files={"train": "r.jsonl"},
        hold_out=shares,
        tokenizer=TokenizerConfig(vocab_size=300),
    )
    made = preprocess(config, tmp_path / "out").manifest["statistics"]
    assert tuple(made.get(split, {"episodes": 0})["episodes"] for split in ("train", "valid", "test")) == counts


def test_a_split_that_has_a_file_is_not_held_out_as_well(tmp_path):
    config = records(tmp_path, GOOD, files={"train": "train.jsonl", "valid": "train.jsonl"}, hold_out={"valid": 0.25})
    with pytest.raises(ConfigError, match=r"give data\.hold_out\.valid=0"):
        preprocess(config, tmp_path / "out")


def test_what_is_held_out_stays_so_when_documents_are_added(tmp_path):
    def tests(count):
        (tmp_path / "r.jsonl").write_text(
            "".join(json.dumps({"input": f"q {n}", "target": f"a {n}"}) + "\n" for n in range(count))
        )
        config = DataConfig(
            name=f"d{count}",
            source="records",
            path=str(tmp_path),
            files={"train": "r.jsonl"},
            hold_out={"test": 0.2},
            tokenizer=TokenizerConfig(vocab_size=300),
        )
        return {e.id for e in EpisodeDataset(preprocess(config, tmp_path / "out").folder / "test")}

    fewer, more = tests(100), tests(110)
    assert len(fewer) == 20
    assert len(more) == 22
    assert len(fewer - more) <= 3, "most of what was held out still is"


def test_statistics_are_those_of_numpy(tmp_path):
    import numpy as np

    from memgpt_cli.data.statistics import _spread

    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 100, 1001):
        values = rng.integers(0, 60, size)
        p50, p95 = np.percentile(values, [50, 95])
        assert _spread(Counter(values.tolist())) == {
            "mean": round(float(values.mean()), 1),
            "median": int(p50),
            "p95": int(p95),
            "max": int(values.max()),
        }


def test_hashes_are_a_set_whatever_the_buffer():
    from memgpt_cli.data.clean import Hashes

    seen, plain = Hashes(recent=4), set()
    rng = random.Random(3)
    for _ in range(500):
        value = rng.randint(-(1 << 63), (1 << 63) - 1) if rng.random() < 0.5 else rng.randint(0, 40)
        assert seen.add(value) == (value not in plain)
        plain.add(value)


def test_an_entry_too_long_stops_where_that_is_asked_for(tmp_path):
    from memgpt_cli.data.clean import Limiter
    from memgpt_cli.schema import Entry, Episode, Example
    from memgpt_cli.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["the red house stands by a river"] * 3, 300)
    limits = LimitConfig(entry=8, on_long_entry="stop")
    long = Episode("e", (Entry("the red house stands by a river", "chunk"),), (Example("q", "a", 1),))
    with pytest.raises(DataError, match=r"an entry of \d+ tokens, limits.entry is 8: 'the red house"):
        Limiter(limits, tokenizer, Counter())(long)
    counts = Counter()
    split = Limiter(replace(limits, on_long_entry="split"), tokenizer, counts)(long)
    assert "".join(e.text for e in split.entries) == "the red house stands by a river"
    assert split.examples[0].sees == len(split.entries) > 1
    assert counts == {"entries split: longer than limits.entry": 1}


def test_a_data_set_of_the_hub_is_read_because_its_id_was_given(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        if name == "no/such":
            raise ValueError("Dataset 'no/such' doesn't exist on the Hub")
        return datasets.Dataset.from_list([{"q": f"what is {n} ?", "a": f"it is {n}"} for n in range(6)])

    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {
        "hub": "owner/questions",
        "hub_config": "en",
        "input": "q",
        "target": "a",
        "split": "train=train,valid=validation,test=test",
    }
    config = DataConfig(
        name="h", source="records", path="", options=options, hold_out={"test": 0.3}, tokenizer=TokenizerConfig(vocab_size=300)
    )
    made = preprocess(config, tmp_path / "out").manifest
    assert asked == [("owner/questions", "en", "train"), ("owner/questions", "en", "validation")]
    assert {split: s["examples"] for split, s in made["statistics"].items()} == {"train": 4, "valid": 6, "test": 2}
    with pytest.raises(DataError, match="hub data set 'no/such' cannot be read: Dataset 'no/such' doesn't exist"):
        preprocess(replace(config, name="n", options={**options, "hub": "no/such"}), tmp_path / "out")
