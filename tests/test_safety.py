"""docs/safety.md, promise by promise: what comes from others is checked, what happens to us loses nothing, and all of it is said."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, tiny_model
from safetensors.torch import load_file, save_file
from test_files import everything
from test_training import OVERRIDES, losses, memgpt, wait_for_step

from memgpt_cli.checkpoint import load_model
from memgpt_cli.checkpoint.untrusted import describe_run
from memgpt_cli.cli.terminal import as_json_line, visible
from memgpt_cli.errors import CheckpointError, ConfigError, DataError, StoreError, in_words
from memgpt_cli.schema import ModelConfig
from memgpt_cli.store import Filter, Item, Limits, Row, open_store
from memgpt_cli.store.types import MAX_TEXT_BYTES

ESC = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"

# a run is somebody else's file


@pytest.fixture
def run(terminal, small_run):
    folder = terminal.folder / "runs" / "small"
    shutil.copytree(small_run, folder)
    return folder


def change(run: Path, **settings: object) -> None:
    """Sets values in the run's config.json, `__` for a dot."""
    file = run / "model" / "config.json"
    values = json.loads(file.read_text())
    for name, value in settings.items():
        *groups, last = name.split("__")
        place = values
        for group in groups:
            place = place[group]
        place[last] = value
    file.write_text(json.dumps(values))


def test_a_run_names_no_place_of_ours(run, terminal):
    secret = terminal.folder / "secret.txt"
    secret.write_text("1 x R_a\tmy secret\n")
    change(
        run,
        store__url="postgresql://thief@example.invalid/db",
        store__key_env="AWS_SECRET_ACCESS_KEY",
        store__namespace="thief",
        data__path=str(terminal.folder),
        data__files={"train": "secret.txt", "test": "../../etc/passwd"},
        data__options={"knowledge_base": str(secret), "hub": "thief/data", "facts": 12},
        data__chat__knowledge=str(secret),
        data__tokenizer__path="https://example.invalid/t",
        model__init_from="/home/anna/model",
    )
    config = load_model(run / "model")[2]
    assert (config.store.url, config.store.namespace, config.store.key_env, config.data.path) == ("", "", "", "")
    assert (config.data.files, config.data.options, config.data.chat.knowledge) == ({}, {"facts": 12}, "")
    assert (config.data.tokenizer.path, config.model.init_from) == ("", "model")
    said = terminal("chat", "--namespace", "t", text="hello\n/quit\n")
    assert said.code == 0, said.err
    assert "this run's own data.chat.knowledge, store.url, store.namespace, store.key_env: not followed" in said.err
    assert (terminal.folder / "home" / "memory.sqlite").is_file(), "what is said stays in the user's own store"
    assert "secret" not in said.out + said.err


def test_knowledge_in_the_run_is_read(run):
    (run / "model" / "kb.txt").write_text("1 x R_a\ty\n")
    change(run, data__chat__knowledge="kb.txt")
    assert load_model(run / "model")[2].data.chat.knowledge == "kb.txt"


TAMPERED = {
    "huge width": ({"model__d_model": 60_000}, "does not fit this model"),
    "huge vocabulary": ({"model__vocab_size": 16_000_000}, "does not fit this model"),
    "a thousand layers": ({"model__n_encoder_layers": 1000}, "2 encoder layers, the run's config.json says 1000"),
    "endless layers": ({"model__n_decoder_layers": 10**12}, "expected at most 1,024"),
    "threads": ({"trainer__threads": 10**6}, "trainer.threads is 1000000, expected at most 1,024"),
    "tokens": ({"generate__max_tokens": 10**9}, "expected at most 65,536"),
    "not a number": ({"optim__lr": float("nan")}, "optim.lr is nan, expected a number"),
    "a name that is a path": ({"data__name": "../../x"}, "data.name is '../../x', expected a plain name"),
    "a setting of another type": ({"model__d_ff": "wide"}, "'model.d_ff' is 'wide', expected int"),
    "an unknown setting": ({"model__evil": 1}, "'model.evil' is not a setting"),
    "no object": ({"model": []}, "expected a group of settings"),
    "another tokenizer's mark": ({"tokenizer": "0123456789abcdef"}, "is another one"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_configuration_is_named(run, name):
    settings, message = TAMPERED[name]
    change(run, **settings)
    with pytest.raises(CheckpointError, match="(?s)" + message.replace("(", r"\(")):
        load_model(run / "model")


def test_tampered_weights_and_tokenizers_are_named(run, tokenizer):
    weights = load_file(run / "model" / "model.safetensors")
    name = "encoder.layers.0.attention.q.weight"
    for changed, message in (
        ({**weights, name: torch.full_like(weights[name], float("nan"))}, f"NaN or infinite.* in {name}"),
        ({**weights, name: weights[name][:3]}, f"{name} is .*, expected"),
        ({k: v for k, v in weights.items() if k != name}, f"missing {name}"),
        ({**weights, "evil": torch.ones(2)}, "unexpected evil"),
    ):
        save_file(changed, run / "model" / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_model(run / "model")
    for raw in (b"", b"x" * 100, struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 2) + b"[]"):
        (run / "model" / "model.safetensors").write_bytes(raw)
        with pytest.raises(CheckpointError, match="holds no safetensors, or is damaged"):
            load_model(run / "model")
    save_file(weights, run / "model" / "model.safetensors")
    tokenizer.save(run / "model")
    with pytest.raises(CheckpointError, match="its words would mean other words"):
        load_model(run / "model")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"seed": ' + "9" * 5000 + "}", "\udcff", "null"])
def test_a_configuration_that_is_none_is_named(run, text):
    (run / "model" / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="config.json"):
        describe_run(run / "model")


def test_sizes_have_limits():
    for wrong in ({"d_model": 0}, {"n_heads": 10**9}, {"dropout": float("nan")}, {"dropout": 1}):
        with pytest.raises(ConfigError, match="expected"):
            ModelConfig(**{**TINY, **wrong})


# the store


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "m.sqlite"), "e") as opened:
        yield opened


BAD_ROWS = {
    "meta.repeats of another type": {"meta": {"repeats": 5}},
    "meta.triple of two": {"meta": {"triple": ["a", "b"]}},
    "meta that is no object": {"meta": [1]},
    "meta too large": {"meta": {"x": "y" * 70_000}},
    "meta with a set": {"meta": {"x": {1}}},
    "meta that is not finite": {"meta": {"x": float("inf")}},
    "half a surrogate in meta": {"meta": {"x": "\ud83d"}},
    "an unknown kind": {"kind": "[red]evil"},
    "a text of another type": {"text": 5},
    "a text too long": {"text": "x" * (MAX_TEXT_BYTES + 1)},
    "an origin of another type": {"provenance": {"line": [1]}},
    "an unknown origin": {"provenance": {"evil": "x"}},
    "an origin too long": {"provenance": {"source": "x" * 10_000}},
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_no_row_comes_in_that_could_not_be_shown_and_forgotten(store, name):
    item = Item(**{"text": "x", **BAD_ROWS[name]})
    with pytest.raises(StoreError):
        store.put("n", [Item("good"), item])
    (id,) = store.put("n", [Item("before")]).ids
    if "origin" not in name:  # an edit leaves the origins as they are
        with pytest.raises(StoreError):
            store.edit("n", id, item)
    assert [e.text for e in store.list("n")] == ["before"], "a refused call keeps nothing, and changes nothing"


@pytest.mark.parametrize(
    "wrong", [{"created": "yesterday"}, {"created": "2026-01-31T12:00:00+05:00"}, {"updated": 5}, {"version": 0}, {"version": True},
              {"version": 1 << 40}, {"searchable": 1}, {"provenance": {}}, {"vectors": {5: np.ones(3, np.float32)}}],
)  # fmt: skip
def test_no_past_comes_in_that_is_none(store, wrong):
    date = "2026-01-31T12:00:00+00:00"
    row = {"text": "x", "kind": "note", "meta": {}, "provenance": [], "created": date, "updated": date}
    store.restore("n", [Row(**row)])
    with pytest.raises(StoreError):
        store.restore("n", [Row(**{**row, "text": "y", **wrong})])


def test_what_the_import_refused_is_said_and_the_rest_can_be_forgotten(terminal):
    lines = [
        {"text": "one"},
        {"text": "two", "meta": {"repeats": 5}},
        {"text": "three", "meta": {"mine": [1]}},
        {"text": "four", "kind": "evil"},
    ]
    (terminal.folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = terminal("memory", "import", "a.jsonl", "--namespace", "n")
    assert said.code == 1
    assert "2 entries from 1 files" in said.out
    assert "a.jsonl:2: meta.repeats is '5', expected text" in said.out
    assert "a.jsonl:4: kind is 'evil', expected one of" in said.out
    for how in (["1"], ["--where", "kind=note"], ["--all"]):
        assert terminal("memory", "forget", *how, "--yes", "--namespace", "n").code == 0


def tampering(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.executescript(statement)
    db.commit()
    db.close()


TAMPERING = {
    "meta": ("UPDATE entries SET meta='{\"x\":2}' WHERE id=1", "entry 1: its meta, provenance, dates or version are not"),
    "meta that is no JSON": ("UPDATE entries SET meta='{' WHERE id=1", "entry 1: its meta or provenance is no JSON"),
    "meta of bytes": ("UPDATE entries SET meta=x'ff' WHERE id=1", "entry 1: its meta or provenance is no JSON"),
    "repeats": ("UPDATE entries SET meta='{\"repeats\":5}' WHERE id=1", "entry 1: meta.repeats is '5'"),
    "provenance": ("UPDATE entries SET provenance='[{\"who\":\"eve\"}]' WHERE id=1", "entry 1: its meta, provenance"),
    "provenance that is none": ("UPDATE entries SET provenance='7' WHERE id=1", "entry 1: provenance is"),
    "created": ("UPDATE entries SET created='2020-01-01T00:00:00+00:00' WHERE id=1", "entry 1: its meta, provenance, dates"),
    "created that is no date": ("UPDATE entries SET created='soon' WHERE id=1", "entry 1: created is 'soon'"),
    "version": ("UPDATE entries SET version=7 WHERE id=1", "entry 1: its meta, provenance, dates or version"),
    "text": ("UPDATE entries SET text='other' WHERE id=1", "entry 1: its text is not what was stored"),
    "text of bytes": ("UPDATE entries SET text=CAST(x'ff41' AS TEXT) WHERE id=1", "entry 1: its text is not"),
    "kind": ("UPDATE entries SET kind='evil' WHERE id=1", "entry 1: kind is 'evil'"),
    "limits": ("UPDATE namespaces SET limits='{\"max_entries\":1}'", "its limits are not those that were set"),
    "limits that are none": ("UPDATE namespaces SET limits='[1]'", "its name or its limits are damaged"),
    "a trigger": ("CREATE TABLE copies (t); CREATE TRIGGER spy BEFORE DELETE ON entries BEGIN INSERT INTO copies VALUES (old.text); END", "a trigger 'spy' that memgpt did not make"),
    "a view": ("CREATE VIEW v AS SELECT text FROM entries", "a view 'v' that memgpt did not make"),
    "a column": ("ALTER TABLE entries ADD COLUMN copy TEXT", "the table 'entries' is not as memgpt made it"),
    "an index of another kind": ("DROP INDEX entries_ns; CREATE INDEX entries_ns ON entries (ns, text)", "the index 'entries_ns' is not as memgpt made it"),
    "an index that is gone": ("DROP INDEX entries_ns", "the index 'entries_ns' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERING)
def test_verify_finds_what_was_changed_and_forgetting_still_works(terminal, name):
    statement, message = TAMPERING[name]
    where = ("--store", "m.sqlite")
    assert terminal("memory", "add", "xyzzy plugh", *where, "--namespace", "n").code == 0
    assert terminal("memory", "verify", *where).code == 0
    tampering(terminal.folder / "m.sqlite", statement)
    said = terminal("memory", "verify", *where)
    assert said.code == 1
    assert message in said.out
    for command in (["list"], ["show", "1"], ["stats"], ["search", "xyzzy"], ["list", "--json"]):
        done = terminal("memory", *command, *where, "--namespace", "n")
        assert done.code == 0, (command, done)
    done = terminal("memory", "forget", "1", "--yes", *where, "--namespace", "n")
    assert done.code == 0, done
    if "trigger" in name:
        raw = b"".join(p.read_bytes() for p in terminal.folder.glob("m.sqlite*"))
        assert b"plugh" not in raw, "the trigger did not run, so no copy was kept"


def test_a_store_of_the_format_before_is_brought_up_to_date(tmp_path):
    with open_store(str(tmp_path / "m.sqlite"), "e") as store:
        store.put("n", [Item("one", meta={"x": 1}), Item("two")])
        store.set_limits("n", Limits(max_entries=9))
    tampering(
        tmp_path / "m.sqlite",
        "ALTER TABLE entries DROP COLUMN sum; ALTER TABLE namespaces DROP COLUMN sum; ALTER TABLE namespaces DROP COLUMN terms;"
        "DROP TABLE word_places; DELETE FROM meta WHERE name='terms'; PRAGMA user_version=2",
    )
    with open_store(str(tmp_path / "m.sqlite"), "e") as store:
        assert [e.text for e in store.list("n")] == ["one", "two"]
        assert [p for p in store.verify() if "limits" not in p] == []
        store.set_limits("n", Limits(max_entries=9))
        assert store.verify() == []


@pytest.mark.parametrize("version", [0, 1, 2, 3, 75])
@pytest.mark.parametrize("wal", [False, True])
def test_another_programs_file_is_not_touched(terminal, version, wal):
    db = sqlite3.connect(terminal.folder / "places.sqlite")
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
    db.executescript(f"CREATE TABLE entries (id, title); INSERT INTO entries VALUES (1, 'x'); PRAGMA user_version={version}")
    db.close()
    before = everything(terminal.folder)
    for command in (["add", "x"], ["list"], ["verify"], ["compact"], ["forget", "--all", "--yes"]):
        said = terminal(
            "memory",
            *command,
            "--store",
            "places.sqlite",
            *([] if command[0] in ("verify", "compact") else ["--namespace", "n"]),
        )
        assert said.code == 1
        assert "is a SQLite file, but no memory store" in said.err
        assert everything(terminal.folder) == before


def test_a_snapshot_that_fails_leaves_nothing_in_the_way(store, tmp_path):
    store.put("n", [Item("x" * 50_000 + str(n)) for n in range(20)])
    if not shutil.which("mount"):
        pytest.skip("no mount")
    (tmp_path / "full").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path / "full"]).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StoreError, match="the disk is full"):
            store.snapshot(tmp_path / "full" / "copy.sqlite")
        assert list((tmp_path / "full").iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path / "full"], check=True)
    store.snapshot(tmp_path / "copy.sqlite")
    with pytest.raises(StoreError, match="never replaces"):
        store.snapshot(tmp_path / "copy.sqlite")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "[red]x[/red]"}, "kind is"), ({"created": "x"}, "created is"), ({"meta": {"repeats": 1}}, "meta.repeats"),
     ({"keys": {"e": -1}}, "its vectors are not in the export"), ({"keys": {"e": 99}}, "is no entry"), ({"keys": {"f": 0}}, "is no entry"),
     ({"text": 7}, "text is a number"), ({"provenance": [{"evil": 1}]}, "an origin has 'evil'")],
)  # fmt: skip
def test_an_export_with_one_bad_line_is_refused_whole(store, tmp_path, change, message):
    import hashlib

    from memgpt_cli.store import bundle

    store.put("n", [Item(f"entry {n}", vector=np.ones(4, np.float32)) for n in range(5)])
    bundle.export(store, "n", tmp_path / "out")
    file = tmp_path / "out" / "entries.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3] |= change
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["sha256"]["entries.jsonl"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=rf"entries.jsonl:4: .*{message}"):
        bundle.load(store, "other", tmp_path / "out")
    assert store.list("other") == []


# conversations


@pytest.fixture
def talk(tokenizer, tmp_path):
    from memgpt_cli.chat.conversation import Conversation
    from memgpt_cli.config import Config, DataConfig, GenerateConfig, LimitConfig, StoreConfig
    from memgpt_cli.data.dataset import Seen
    from memgpt_cli.inference.session import Session

    model, opened = tiny_model(len(tokenizer)), []

    def open_it():
        data = DataConfig(limits=LimitConfig(input=16, entry=8))
        config = Config(data=data, generate=GenerateConfig(max_tokens=4, min_tokens=1), store=StoreConfig(recall=8))
        session = Session("tiny", None, model, tokenizer, config, Seen(), "e")
        session.attach(str(tmp_path / "m.sqlite"), "anna", create=True)
        opened.append(session)
        return Conversation(session)

    yield open_it
    for session in opened:
        session.close()


def test_a_message_too_long_is_refused_before_it_is_kept(talk):
    chat = talk()
    for call in (chat.reply, chat.remember):
        with pytest.raises(Exception, match="at most 65,336 are taken"):
            call("x" * 1_000_000)
        with pytest.raises(Exception, match="holds half of a surrogate pair"):
            call("\udcff")
    assert list(chat.store.list("anna")) == []
    assert chat.events == []


def test_what_is_longer_than_the_model_reads_is_cut_and_said(talk):
    chat = talk()
    chat.remember("the red house stands by a river and anna keeps three grey cats there while peter sings")
    reply = chat.reply("word " * 2000)
    assert "the input is longer than the 16 tokens this model reads: its end was read" in reply.notes
    assert any("of the entries are longer than 8 tokens" in note for note in reply.notes)
    assert chat.reply("hi").text is not None, "the next one works as well"


def test_new_after_another_process_has_forgotten_the_last_turn(talk):
    chat = talk()
    chat.reply("one")
    chat.reply("two")
    other = talk()
    other.store.forget("anna", [chat.events[-1].id])
    chat.new()
    assert talk().resume() == 0, "the conversation is closed all the same"
    chat.reply("three")
    other.store.forget("anna", everything=True)
    chat.new()
    assert chat.events == []


def test_on_a_full_store_the_conversation_goes_on_and_says_so(talk):
    chat = talk()
    chat.store.set_limits("anna", Limits(max_entries=1))
    first = chat.reply("one")
    second = chat.reply("two")
    assert any("not kept in memory" in note and "would hold 2 entries of at most 1" in note for note in first.notes)
    assert any("not kept in memory" in note for note in second.notes)
    assert chat.transcript().count("user:") == 2
    chat.new()


def test_the_loop_says_what_went_wrong_and_goes_on(terminal, run):
    text = (
        b"hello\n"
        + b"x" * 200_000
        + b"\n\xff\xfe bad bytes\n/forget 99999999999999999999999\n/save runs\n/save home/memory.sqlite\n/remember \xff\n/history\n/quit\n"
    )
    said = terminal("chat", "--namespace", "n", text=text)
    assert said.code == 0, said.err
    assert "a message of 200,000 bytes, at most" in said.out
    assert said.out.count("holds half of a surrogate pair, or bytes that are no UTF-8") == 2
    assert "runs is a folder" in said.out
    assert "is being read" in said.out
    assert (terminal.folder / "home" / "memory.sqlite").read_bytes()[:15] == b"SQLite format 3"
    assert "user: hello" in said.out


# what reaches the terminal


def test_nothing_of_others_steers_the_terminal(terminal, run):
    entries = [{"text": f"note {ESC}", "meta": {"k" + ESC: ESC}}, {"head": "a" + ESC, "relation": "b", "tail": "c"}]
    name = "a" + ESC.replace("/", "") + ".jsonl"
    (terminal.folder / name).write_text("".join(json.dumps(e) + "\n" for e in entries) + "{\n")
    where = ("--namespace", "n")
    commands = [
        ["memory", "import", name, *where], ["memory", "list", *where], ["memory", "show", "1", "2", *where], ["memory", "search", "note", *where],
        ["memory", "list", "--json", *where], ["memory", "show", "1", "--json", *where], ["memory", "stats", *where], ["memory", "forget", "9" + ESC, *where],
        ["memory", "add", ESC, *where], ["memory", "list", "--where", ESC, *where], ["train" + ESC], ["train", "a" + ESC], ["train", ESC + "=1"],
        ["eval", "--run", ESC], ["memory", "verify", "--store", ESC], ["generate", "-i", ESC], ["memory", "edit", "1", "x" + ESC, *where],
        ["memory", "snapshot", "home", "--store", "x" + ESC], ["export", ESC, "out"], ["preprocess", f"data.path={ESC}"], ["memory", "list", "--namespace", ESC],
    ]  # fmt: skip
    for command in commands:
        said = terminal(*command)
        for c in said.out + said.err:
            assert c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160 and c != "\u202e"), (command, said)
    said = terminal(
        "chat", *where, text=f"hello {ESC}\n/memory\n/why\n/history\n/forget {ESC}\n/{ESC}\n/remember {ESC}\n/save {ESC}\n"
    )
    assert "\x1b" not in said.out + said.err
    assert "\x9b" not in said.out + said.err
    said = terminal("generate", text=f"what {ESC}\n")
    assert "\x1b" not in said.out + said.err
    said = terminal("generate", "--json", text=f"what {ESC}\n")
    assert json.loads(said.out)["input"] == f"what {ESC}", "escaped, and nothing lost"
    assert "\x1b" not in said.out


def test_json_reads_back_as_it_was():
    value = {"x": "".join(map(chr, range(0x250))) + ESC + "文\ud83d"}
    line = as_json_line(value)
    assert json.loads(line) == value
    assert visible(line.replace("\ud83d", "")) == line.replace("\ud83d", "")


def test_the_version_is_printed(terminal):
    from memgpt_cli import __version__

    assert terminal("--version") == (0, __version__ + "\n", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [(["trian"], 2, "No such command 'trian'"), (["train", "--frsh"], 2, "No such option"), (["memory", "show", "x"], 2, "valid integer"),
     (["memory", "show", "9" * 30], 2, "less than or equal to"), (["memory", "import"], 2, "Missing argument"), (["eval", "--file", "nowhere"], 2, "does not exist")],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(terminal, words, code, message):
    said = terminal(*words)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert said.err.startswith("memgpt: ")
    assert said.err.count("\n") == 1
    assert "--help" in said.err


def test_errors_of_the_system_are_words():
    for number, words in ((errno.ENOSPC, "a/b: the disk is full"), (errno.EROFS, "a/b: the disk can only be read"),
                          (errno.EACCES, "a/b: permission denied"), (errno.ENOTCONN, "a/b: transport endpoint is not connected")):  # fmt: skip
        assert in_words(OSError(number, "x", "a/b")) == words
    assert "not enough memory" in in_words(MemoryError())
    assert "not enough memory" in in_words(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert in_words(RuntimeError("x")) == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("command", [["memory", "list", "--json"], ["config", "train"], ["--help"]])
def test_a_full_or_closed_output_is_one_line_at_most(terminal, stream, command):
    """A process of its own: what Python itself says at its end counts as well."""
    terminal("memory", "add", "-", text="\n".join(f"note {n}" for n in range(500)))
    environment = {**os.environ, "MEMGPT_HOME": str(terminal.folder / "home")}
    program = [sys.executable, "-m", "memgpt_cli", *command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, env=environment, stdout=full if stream == "stdout" else subprocess.PIPE,
                              stderr=full if stream == "stderr" else subprocess.PIPE, text=True)  # fmt: skip
    if stream == "stdout":
        assert done.returncode == 1
        assert done.stderr == "memgpt: the disk is full\n"
    head = subprocess.run(
        f"{' '.join(map(repr, program))} | head -n 1", shell=True, env=environment, capture_output=True, text=True
    )
    assert head.stderr == ""


def test_bytes_on_standard_input_that_are_no_text_are_named(terminal, run):
    assert (
        "standard input:2: invalid UTF-8 at byte 4 of the line (0xff)"
        in terminal("memory", "add", "-", text=b"one\ntwo \xff\n").err
    )
    assert terminal("memory", "list").out.count("one") == 0, "a bad line keeps nothing of the call"
    said = terminal("generate", text=b"one\n\xff\n")
    assert (said.code, said.out.count("\n")) == (2, 1)
    assert "standard input:2: invalid UTF-8" in said.err


# interruptions


@pytest.mark.slow
def test_interruptions_cost_no_patience_and_change_nothing(tmp_path):
    """Three Ctrl-C (one of them SIGTERM) in a run that would stop after two validations without a better score."""
    settings = [*OVERRIDES, "trainer.max_steps=40", "trainer.patience=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    first = memgpt(whole, "train", *settings)
    out, _ = first.communicate(timeout=180)
    assert first.returncode == 0, out
    for step, number, code in ((3, signal.SIGINT, 130), (12, signal.SIGTERM, 143), (23, signal.SIGINT, 130)):
        process = memgpt(cut, "train", *settings)
        wait_for_step(cut / "runs/t", step, process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
        if process.returncode:
            assert process.returncode == code, out
            assert "the same command goes on from there" in out
    last = memgpt(cut, "train", *settings)
    out, _ = last.communicate(timeout=180)
    assert last.returncode == 0, out
    assert losses(cut / "runs/t") == losses(whole / "runs/t")
    weights = [(f / "runs/t/model/model.safetensors").read_bytes() for f in (whole, cut)]
    assert weights[0] == weights[1]
    rows = [[json.loads(line) for line in (f / "runs/t/history.jsonl").read_text().splitlines()] for f in (whole, cut)]
    assert [r for r in rows[0] if "val/loss" in r] == [r for r in rows[1] if "val/loss" in r]


@pytest.mark.slow
def test_a_second_training_of_a_run_is_told_of_the_first(tmp_path):
    first = memgpt(tmp_path, "train", *OVERRIDES, "trainer.max_steps=100000")
    try:
        wait_for_step(tmp_path / "runs/t", 3, first)
        second = memgpt(tmp_path, "train", *OVERRIDES, "trainer.max_steps=100000")
        out, _ = second.communicate(timeout=120)
        assert second.returncode == 1
        assert f"run 't' is being trained by process {first.pid}" in out
    finally:
        first.kill()
        first.communicate()
    for left in ("runs/.t.partial-1", "runs/t/.model.partial-1", "runs/t/checkpoints/.step-00000001.partial-1"):
        (tmp_path / left).mkdir(parents=True, exist_ok=True)
    third = memgpt(tmp_path, "train", *OVERRIDES, "trainer.max_steps=100000")
    try:
        deadline = time.monotonic() + 60
        while list(tmp_path.rglob(".*.partial-1")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert list(tmp_path.rglob(".*.partial-1")) == [], "what the killed run left is cleared away by the next"
    finally:
        third.kill()
        third.communicate()


# rejected records are never silent


def test_all_rejected_says_so_and_where_they_are(terminal):
    (terminal.folder / "raw").mkdir()
    (terminal.folder / "raw" / "train.jsonl").write_text('{"question": "x"}\n' * 7)
    said = terminal("preprocess", "data=records", "data.path=raw", "data.on_error=quarantine")
    assert said.code == 1
    assert (
        "7 records were rejected (see data/records.rejects.jsonl), the first: raw/train.jsonl:1: field 'target' is missing, found question"
        in said.err
    )
    assert len((terminal.folder / "data" / "records.rejects.jsonl").read_text().splitlines()) == 7


def test_eval_of_a_file_with_bad_records_says_how_many(terminal, run):
    change(run, data__source="records", data__options={})
    rows = [json.dumps({"input": f"job of x{n} ?", "target": "y"}) for n in range(6)]
    rows[2], rows[4] = '{"input": 3, "target": "y"}', "{"
    (terminal.folder / "own.jsonl").write_text("\n".join(rows) + "\n")
    said = terminal(
        "eval", "--file", "own.jsonl", "--json", "-m", "exact", "eval.memories=[learned]", "data.on_error=quarantine"
    )
    assert said.code == 0, said.err
    assert json.loads(said.out)["learned"][0]["n"] == 4
    assert "records that could not be read, and are left out: 2 of test" in said.err
    said = terminal("eval", "--file", "own.jsonl", "--json", "-m", "exact", "eval.memories=[learned]")
    assert said.code == 1
    assert "own.jsonl:3: field 'input' is int, expected text" in said.err


def test_filters_are_conditions(store):
    with pytest.raises(Exception, match="is no condition"):
        Filter.parse(["evil"])


# what two reviews broke


def test_a_training_that_diverges_stops_and_keeps_the_last_good_model(tiny_config, facts_data, tmp_path):
    from dataclasses import replace

    from rich.console import Console

    from memgpt_cli.errors import TrainingStopped
    from memgpt_cli.training.fit import train

    optim = replace(tiny_config.optim, lr=1000.0, warmup_steps=0, clip=0.0)
    config = replace(tiny_config, optim=optim, trainer=replace(tiny_config.trainer, max_steps=60))
    with pytest.raises(TrainingStopped, match="has diverged"):
        train(config, facts_data[0], tmp_path / "run", Console(quiet=True))
    if (tmp_path / "run" / "model").exists():
        load_model(tmp_path / "run" / "model")


@pytest.mark.parametrize(
    "change",
    [lambda tree: {}, lambda tree: tree | {"state_dict": None}, lambda tree: tree | {"state_dict": {}}, lambda tree: tree | {"callbacks": 5},
     lambda tree: tree | {"global_step": 99}, lambda tree: tree | {"optimizer_states": [{}]}, lambda tree: {k: v for k, v in tree.items() if k != "loops"},
     lambda tree: tree | {"state_dict": {k: v * float("nan") if v.is_floating_point() else v for k, v in tree["state_dict"].items()}}],
)  # fmt: skip
def test_a_tampered_checkpoint_is_named(small_run, facts_data, tmp_path, tiny_config, change):
    from dataclasses import replace

    from rich.console import Console

    from memgpt_cli.checkpoint import load_tree, save_tree
    from memgpt_cli.training.callbacks import checkpoint_folders
    from memgpt_cli.training.fit import train

    run = tmp_path / "small"
    shutil.copytree(small_run, run)
    newest = checkpoint_folders(run)[0]
    tree = load_tree(newest)
    shutil.rmtree(newest)
    save_tree(newest, change(tree))
    (run / "history.jsonl").write_text(
        '5\n{"loss": 1}\n{"step": "x"}\n' + '{"step": 1, "loss": ' + "9" * 400 + "}\n" + "[" * 100_000 + "\n"
    )
    trainer = replace(tiny_config.trainer, max_steps=12, log_every=25)
    with pytest.raises(CheckpointError, match=r"step-00000006"):
        train(replace(tiny_config, trainer=trainer), facts_data[0], run, Console(quiet=True))
    shutil.rmtree(newest)
    train(replace(tiny_config, trainer=trainer), facts_data[0], run, Console(quiet=True))  # the one before it serves


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
@pytest.mark.parametrize("command", ["memory list", "memory add -", "--version", "chat --run nothing", "generate"])
def test_closed_streams_end_in_words_or_in_silence(terminal, closed, command):
    program = f"{sys.executable} -m memgpt_cli {command} {closed}"
    done = subprocess.run(program, shell=True, capture_output=True, text=True, env={**os.environ, "MEMGPT_HOME": str(terminal.folder / "home")},
                          stdin=subprocess.DEVNULL if closed != "<&-" else None, timeout=120)  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    assert "a fault of" not in done.stdout + done.stderr
    assert "memgpt: " not in done.stdout


def test_a_file_of_the_run_or_of_the_store_is_never_written_over(terminal, run):
    (terminal.folder / "q.txt").write_text("x\n")
    for output in ("runs/small/config.json", "runs/small/history.jsonl", "runs/small/model/tokenizer.model"):
        assert terminal("generate", "-i", "q.txt", "-o", output).code == 2
    text = "".join(
        f"/save {name}\n" for name in ("home/memory.sqlite-wal", "runs/small/model/tokenizer.model", "~nobody0/x", "a\0b")
    )
    said = terminal("chat", "--namespace", "n", text="hello\n" + text + "/remember kept\n/quit\n")
    assert said.code == 0
    assert said.out.count("is being read") == 2
    assert "kept" in terminal("memory", "list", "--namespace", "n").out


def test_an_import_that_had_to_stop_says_what_it_kept(terminal):
    (terminal.folder / "a.jsonl").write_text("".join(json.dumps({"text": f"note {n}"}) + "\n" for n in range(5000)))
    terminal("memory", "limit", "--max-entries", "3000", "--namespace", "n")
    said = terminal("memory", "import", "a.jsonl", "--namespace", "n")
    assert said.code == 1
    assert "2,000 entries from 1 files" in said.out
    assert "stopped after 2,000 new entries, which are kept: 'n' would hold 4,000 entries of at most 3,000" in said.err


def test_what_was_tampered_with_is_not_made_sound_by_adding_it_again(terminal):
    where = ("--store", "m.sqlite")
    terminal("memory", "add", "xyzzy", *where, "--namespace", "n")
    tampering(terminal.folder / "m.sqlite", "UPDATE entries SET created='2020-01-01T00:00:00+00:00'")
    (terminal.folder / "a.jsonl").write_text('{"text": "xyzzy"}\n')
    terminal("memory", "import", "a.jsonl", *where, "--namespace", "n")
    assert "entry 1: its meta, provenance, dates" in terminal("memory", "verify", *where).out


def test_a_link_in_a_run_leads_nowhere(run, terminal):
    (terminal.folder / "secret.txt").write_text("1 x R_a\tmysecret\n")
    (run / "model" / "kb.txt").symlink_to(terminal.folder / "secret.txt")
    change(run, data__chat__knowledge="kb.txt")
    assert load_model(run / "model")[2].data.chat.knowledge == ""
