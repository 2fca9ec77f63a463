"""For the one who types: data of one's own by its name alone, one question, an example looked at, settings explained, runs kept."""

import csv
import json
import shutil

import pytest

import memgpt_cli
from memgpt_cli.data.guess import guess
from memgpt_cli.errors import UsageError


@pytest.fixture
def run(small_run, terminal):
    """The small run, as the newest of the folder the terminal stands in."""
    shutil.copytree(small_run, terminal.folder / "runs" / "small")
    return terminal.folder / "runs" / "small"


# data=my.csv


def write(folder, name, text):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return str(file)


RECORD = {"question": "q", "answer": "a", "context": "c"}
GUESSES = {
    "a table": ("a.csv", "question,answer,context\nq,a,c\n", "records", {"input": "question", "target": "answer", "memory": "context"}),
    "records": ("a.jsonl", json.dumps({"Input": "q", "OUTPUT": "a"}) + "\n", "records", {"input": "Input", "target": "OUTPUT"}),
    "a list": ("a.json", json.dumps([{"document": "d", "summary": "s"}]), "records", {"input": "document", "target": "summary"}),
    "tabs": ("a.tsv", "src\ttgt\nhaus\thouse\n", "records", {"input": "src", "target": "tgt"}),
    "several answers": ("a.jsonl", json.dumps({"query": "q", "answers": ["a"]}) + "\n", "records", {"input": "query", "references": "answers"}),
    "dialogues": ("a.jsonl", json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}) + "\n",
                  "dialogue", {"messages": "messages", "speaker": "role", "text": "content", "reply": "assistant"}),
    "SQuAD": ("a.json", json.dumps({"data": []}), "squad", {}),
    "a text": ("a.txt", "Once upon a time.\n", "text", {}),
    "a folder of texts": ("t/b.md", "Once upon a time.\n", "text", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", GUESSES)
def test_the_reader_is_found_by_looking(name, tmp_path):
    file, text, preset, options = GUESSES[name]
    path = write(tmp_path, file, text)
    overrides, said = guess(path if "/" not in file else str(tmp_path / "t"))
    assert overrides[0] == f"data={preset}"
    found = {o.split("=")[0].removeprefix("data.options."): json.loads(o.split("=", 1)[1]) for o in overrides if "options" in o}
    assert found == options
    for field in options.values():
        assert f"'{field}'" in said
    assert ("nothing is held out" if preset == "text" else "a tenth is held out") in said


def test_files_of_splits_are_known_by_their_names(tmp_path):
    for name in ("train-1.jsonl", "train-2.jsonl", "dev.jsonl", "notes.md"):
        write(tmp_path, name, json.dumps({"input": "q", "target": "a"}) + "\n")
    overrides, said = guess(str(tmp_path))
    assert 'data.files={train: ["train-1.jsonl", "train-2.jsonl"], valid: ["dev.jsonl"]}' in overrides
    assert "data.hold_out={valid: 0, test: 0.1}" in overrides


def test_a_preset_is_a_preset_whatever_folders_there_are(terminal):
    for name in ("facts", "records"):
        write(terminal.folder, f"{name}/train.csv", "question,answer\nq,a\n")
    assert "source: facts" in terminal("config", "data=facts").out
    assert "is read as records" in terminal("config", "data=./facts").err


def test_a_dialogue_is_chatted_with_as_it_was_trained(tmp_path):
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    overrides, _ = guess(write(tmp_path, "a.jsonl", json.dumps({"conversations": turns}) + "\n"))
    assert {'data.chat.bot="gpt"', 'data.chat.user="human"', 'data.options.reply="gpt"'} <= set(overrides)


def test_what_cannot_be_guessed_is_asked_for(tmp_path):
    path = write(tmp_path, "a.csv", "alpha,beta\n1,2\n")
    with pytest.raises(UsageError, match=r"which field is the input\? Found alpha, beta: say data.options.input=FIELD"):
        guess(path)
    assert guess(path, ["data.options.input=alpha", "data.options.target=beta"])[0][0] == "data=records"
    with pytest.raises(UsageError, match="no such file or folder"):
        guess(str(tmp_path / "nowhere.csv"))


def test_a_csv_of_ones_own_is_trained_on(terminal):
    with open(terminal.folder / "my rows, of {mine}.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["question", "answer", "context"])
        out.writerows([f"where is {n} ?", f"place {n}", f"thing {n} is at place {n} ."] for n in range(40))
    said = terminal("train", "data=my rows, of {mine}.csv", "debug=fast", "run=mine", "trainer.threads=1")
    assert said.code == 0, said.err
    assert "input from 'question', target from 'answer', memory from 'context'" in said.err
    manifest = json.loads(next((terminal.folder / "data").glob("*/manifest.json")).read_text())
    counts = {split: s["examples"] for split, s in manifest["statistics"].items()}
    assert counts == {"train": 32, "valid": 4, "test": 4}
    assert (terminal.folder / "runs/mine/model/model.safetensors").is_file()


# looking


def test_an_example_as_the_model_sees_it(terminal, facts_data):
    shutil.copytree(facts_data[0], terminal.folder / "data" / "facts")
    whole = json.loads(terminal("data", "show", "facts", "3", "--json").out)
    said = terminal("data", "show", "facts", "3")
    assert said.code == 0, said.err
    assert whole["input"] in said.out
    assert whole["target"] in said.out
    assert all(e["text"] in said.out and e["kind"] == "fact" for e in whole["entries"])
    assert [e["evidence"] for e in whole["entries"]].count(True) == 1
    assert "│" in terminal("data", "show", "facts", "3", "--ids").out
    assert "from 0 to 95" in terminal("data", "show", "facts", "96").err
    assert terminal("data", "show", "facts", "--split", "dev").code == 2
    assert terminal("data", "show", "../facts").code == 2
    assert "facts" in terminal("data", "list").out


def test_settings_are_explained(terminal):
    said = terminal("config", "explain", "optim.lr", "store.recall")
    assert said.code == 0, said.err
    assert "optim.lr = 0.002" in said.out
    assert "optim=finetune sets it to" in said.out
    assert "as many as the examples it was trained on saw" in said.out
    assert len(terminal("config", "explain", "optim", "--json").out.splitlines()) > 10
    assert "Did you mean 'optim.lr'" in terminal("config", "explain", "optim.lrr").err


def test_every_setting_has_a_meaning():
    from memgpt_cli.config import all_keys
    from memgpt_cli.config.meaning import settings

    found = list(settings())
    assert [s.name for s in found] == all_keys()
    silent = [s.name for s in found if not s.meaning]
    assert silent == [], f"a comment beside each of these says what it means: {silent}"


# runs


def test_runs_are_shown_and_deleted(terminal, run):
    whole = json.loads(terminal("runs", "show", "small", "--json").out)
    assert whole["seen"]["kinds"] == ["fact"]
    assert whole["settings"]["model.d_model"] == 32
    assert "model.d_model = 32" in terminal("runs", "show", "small").out
    assert [r["run"] for r in json.loads(terminal("runs", "--json").out)] == ["small"]
    assert "--yes says that you mean it" in terminal("runs", "rm", "small").err
    (run / "mine.txt").write_text("not memgpt's")
    refused = terminal("runs", "rm", "small", "--yes")
    assert refused.code == 2
    assert "mine.txt" in refused.err
    (run / "mine.txt").unlink()
    assert terminal("runs", "rm", "small", "--yes").code == 0
    assert not run.exists()
    (terminal.folder / "photos").mkdir()
    assert "is no run" in terminal("runs", "rm", "photos", "--yes").err


# asking


def test_one_question(terminal, run):
    assert terminal("memory", "add", "bafa lisu | city | rome", "--store", "kb.sqlite").code == 0
    said = terminal("ask", "city of bafa lisu please", "--store", "kb.sqlite")
    assert said.code == 0, said.err
    assert "run small" in said.err
    assert "bafa lisu | city | rome" in said.err
    told = json.loads(terminal("ask", "city of bafa lisu please", "--store", "kb.sqlite", "--json").out)
    assert (told["run"], [r["text"] for r in told["read"]]) == ("small", ["bafa lisu | city | rome"])
    assert told["answer"] + "\n" == said.out
    assert "no memory store at" in terminal("ask", "x", "--store", "nowhere.sqlite").err
    assert "is empty" in terminal("ask", "x", "--store", "kb.sqlite", "--namespace", "nobody").err
    assert terminal("ask", " ").code == 2


def test_a_store_is_named_alike_everywhere(terminal, run, monkeypatch):
    assert terminal("memory", "add", "a | b | c", "--store", "kb.sqlite", "--namespace", "n").code == 0
    question = json.dumps({"input": "b of a please"}) + "\n"

    def recalled(*words):
        said = terminal("generate", "--json", *words, text=question)
        assert said.code == 0, said.err
        return json.loads(said.out).get("recalled")

    assert recalled() is None, "no store is named: none is read"
    assert recalled("--store", "kb.sqlite", "--namespace", "n") == ["a | b | c"]
    assert recalled("--memory", "kb.sqlite", "--namespace", "n") == ["a | b | c"], "what --store was called"
    assert recalled("store.url=kb.sqlite", "store.namespace=n") == ["a | b | c"]
    monkeypatch.setenv("MEMGPT_STORE", "kb.sqlite")
    monkeypatch.setenv("MEMGPT_NAMESPACE", "n")
    assert recalled() == ["a | b | c"]
    assert "--memory" not in terminal("generate", "--help").out
    assert "a | b | c" in terminal("memory", "list").out
    assert "a | b | c" in terminal("chat", text="/memory\n").out


def test_scores_and_several_answers(terminal, run):
    plain = terminal("generate", "--scores", text="job of a b please\n")
    score, _, answer = plain.out.rstrip("\n").partition("\t")
    assert float(score) < 0
    best = terminal("generate", "--nbest", "3", "--scores", text="job of a b please\n")
    assert best.code == 0, best.err
    rows = [line.partition("\t") for line in best.out.splitlines()]
    assert len(rows) == len({row[2] for row in rows}) == 3
    whole = json.loads(terminal("generate", "--nbest", "2", "--scores", "--json", text="job of a b please\n").out)
    assert [n["output"] for n in whole["nbest"]] == [row[2] for row in rows[:2]] or len(whole["nbest"]) == 2
    assert {"logp", "null", "read"} <= whole.keys()


def test_a_dialogue_is_gone_on_with(terminal, run):
    """As training reads it: the last turns are the input, the older ones are memory."""
    said = [
        {"role": who, "content": text}
        for who, text in (("user", "hi"), ("bot", "hello"), ("user", "a table"), ("bot", "where"), ("user", "rome"))
    ]
    done = terminal("generate", "--json", "--scores", text=json.dumps({"messages": said}) + "\n")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["input"] == "bot: where\nuser: rome"
    assert sorted(r["text"] for r in row["read"]) == ["bot: hello", "user: a table", "user: hi"]
    for wrong in ([], "x", [{"role": "user"}], [{"role": "user", "content": " "}]):
        assert terminal("generate", text=json.dumps({"messages": wrong}) + "\n").code == 2


def test_help_is_short_and_long(terminal):
    for words in ((), ("train",), ("memory",), ("memory", "import"), ("runs", "show"), ("bench", "facts")):
        assert terminal(*words, "-h").out == terminal(*words, "--help").out != ""


# import, cut for the run that reads it


def test_documents_are_cut_as_the_run_has_learned_to_read(terminal, run, monkeypatch):
    """A run that knows chunks: its own length, remembered by the namespace; --chars otherwise."""
    config = run / "model" / "config.json"
    values = json.loads(config.read_text())
    values["notes"]["seen"] = {"entry tokens": {"median": 14, "max": 20}, "kinds": {"chunk": 9}}
    config.write_text(json.dumps(values))
    text = " ".join(f"a{n} b{n} c{n} d{n} ." for n in range(12))
    write(terminal.folder, "docs/a.txt", text)
    where = ("--store", "kb.sqlite", "--namespace", "n")
    said = terminal("memory", "import", "docs", "--run", "small", *where)
    assert said.code == 0, said.err
    assert "text is cut at 20 tokens, as long as the entries that run small has learned from" in said.err
    from memgpt_cli.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(run / "model")
    found = [json.loads(line)["text"] for line in terminal("memory", "list", "--json", *where).out.splitlines()]
    assert all(len(tokenizer.encode(text)) <= 20 for text in found)
    assert "".join("".join(found).split()) == "".join(text.split())
    again = terminal("memory", "import", "docs", *where)
    assert "run small has learned from\n" in again.err, "the namespace remembers it"
    assert "known already" in again.out
    assert terminal("memory", "import", "docs", "--chars", "200", "--store", "kb.sqlite", "--namespace", "m").code == 0
    assert json.loads(terminal("memory", "import", "docs", "--json", "--store", "kb.sqlite", "--namespace", "o").out)[
        "cut"
    ].startswith("text is cut at 20 tokens")


def test_a_run_of_facts_does_not_cut_texts_to_their_length(terminal, run):
    write(terminal.folder, "a.txt", "The red house stands by a river. " * 3)
    said = terminal("memory", "import", "a.txt", "--run", "small", "--store", "kb.sqlite")
    assert "run small has not learned from pieces of text: it is cut at 600 characters" in said.err
    assert "1 entries from 1 files" in said.out


# Python


def test_the_python_of_the_readme(terminal, run):
    with memgpt_cli.load("small", store="kb.sqlite", namespace="anna") as m:
        kept = m.remember("bafa lisu | city | rome")
        reply = m.ask("city of bafa lisu please")
        assert isinstance(reply.text, str)
        assert [r.text for r in reply.read] == ["bafa lisu | city | rome"]
        assert m.forget(kept.ids).state == "erased"
        assert m.ask("city of bafa lisu please").read == []
    assert "rome" not in (terminal.folder / "kb.sqlite").read_bytes().decode("latin-1")


def test_vectors_of_another_model(terminal, run):
    """Beside the old ones with --keep-old, instead of them without; in the background a log tells when it is done."""
    import subprocess
    import sys
    import time

    import torch

    from memgpt_cli.checkpoint import fingerprint, load_model, save_model

    model, tokenizer, config = load_model(run / "model")
    weights = {name: weight + 0.1 * torch.ones_like(weight) for name, weight in model.state_dict().items()}
    save_model(terminal.folder / "runs" / "other" / "model", weights, tokenizer, config, {})
    marks = {name: fingerprint(terminal.folder / "runs" / name / "model") for name in ("small", "other")}
    assert marks["small"] != marks["other"]
    where = ("--store", "kb.sqlite", "--namespace", "n")

    def encoders():
        return set(json.loads(terminal("memory", "show", "1", "--json", *where).out)["encoders"])

    assert terminal("memory", "add", "a | b | c", "--run", "small", *where).code == 0
    told = json.loads(terminal("memory", "reindex", "--run", "other", "--keep-old", "--json", *where).out)
    assert (told["added"], told["retired"], told["fingerprint"]) == (1, 0, marks["other"])
    assert encoders() == set(marks.values())
    assert json.loads(terminal("memory", "reindex", "--run", "other", "--json", *where).out)["retired"] == 1
    assert encoders() == {marks["other"]}
    command = [sys.executable, "-m", "memgpt_cli", "memory", "reindex", "--run", "small", "--background", *where]
    said = subprocess.run(command, capture_output=True, text=True)
    assert "reindexing in the background (process " in said.stdout
    log = terminal.folder / "home" / "reindex.log"
    for _ in range(600):
        if "1 vectors of small added, 1 of other models erased" in " ".join(log.read_text().split()):
            break
        time.sleep(0.1)
    assert encoders() == {marks["small"]}, log.read_text()
