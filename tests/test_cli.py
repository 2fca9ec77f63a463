"""The command line as a user meets it: the whole path on debug sizes, help with examples, errors in one line."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from conftest import Terminal
from typer.testing import CliRunner

from memgpt_cli.cli import app, load_commands
from memgpt_cli.cli.doctor import foreign_scripts
from memgpt_cli.cli.reference import _commands, reference, settings_reference
from memgpt_cli.cli.train import _sweep

ROOT = Path(__file__).parent.parent
load_commands()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model trained for four steps on the bundled data."""
    folder = tmp_path_factory.mktemp("cli")
    for command in (["preprocess", "data=dialog_babi"], ["train", "data=dialog_babi", "debug=fast"]):
        done = memgpt(folder, *command)
        assert done.returncode == 0, done.stderr + done.stdout
    return folder


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def memgpt(folder: Path, *args: str, text: str = "") -> Done:
    """The command in this process: starting Python and torch takes longer than most of what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        said = Terminal(folder, patch, columns=160)(*args, text=text)
    return Done(said.code, said.out, said.err)


def test_eval_prints_a_table_and_keeps_predictions(place):
    done = memgpt(place, "eval", "--metric", "exact", "--metric", "perplexity", "--metric", "recall")
    assert done.returncode == 0, done.stderr
    for expected in ("memory=learned", "memory=shuffled", "memory=empty", "exact episodes", "perplexity", "tokenizer:"):
        assert expected in done.stdout
    rows = [json.loads(line) for line in (place / "runs/debug/eval/test-learned.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert set(rows[0]) >= {"input", "prediction", "references", "nll"}
    scores = json.loads(memgpt(place, "eval", "--json", "-m", "f1", "eval.memories=[learned]").stdout)
    assert scores["learned"][0]["signature"].startswith("f1|")


def test_eval_of_raw_files_uses_the_runs_tokenizer(place):
    (place / "own.txt").write_text("1 hi\thello what can i help you with today\n2 thanks\tyou're welcome\n")
    done = memgpt(place, "eval", "--file", "own.txt", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["learned"][0]["n"] == 2


@pytest.mark.slow
def test_eval_after_the_data_changed_uses_the_runs_tokenizer(place):
    done = memgpt(place, "eval", "--json", "-m", "exact", "eval.memories=[learned]", "data.options.turns=3")
    assert done.returncode == 0, done.stderr
    assert any(p.name.startswith("dialog_babi-") for p in (place / "data").iterdir()), "cut anew, beside the training's data"


def test_generate_reads_lines_and_json(place):
    text = 'hello\n{"input": "may i have a table", "memory": ["a | b | c", "a note"]}\n'
    done = memgpt(place, "generate", "--json", text=text)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["input"] for r in rows] == ["hello", "may i have a table"]
    (place / "in.txt").write_text("one\n\ntwo\n")
    assert memgpt(place, "generate", "-i", "in.txt", "-o", "out.txt").returncode == 0
    assert len((place / "out.txt").read_text().splitlines()) == 2
    bad = memgpt(place, "generate", text='{"no": 1}\n')
    assert bad.returncode == 2
    assert "line 1 begins with {" in bad.stderr


def test_chat_is_scriptable_and_remembers(place):
    first = memgpt(place, "chat", "--namespace", "t", text="hello\n/remember anna | likes | tea\n/quit\n")
    assert first.returncode == 0, first.stderr
    assert "bot>" in first.stdout
    again = memgpt(place, "chat", "--namespace", "t", text="/memory tea\n/history\n")
    assert "going on after" in again.stdout
    assert "anna | likes | tea" in again.stdout
    assert "user: hello" in again.stdout
    other = memgpt(place, "chat", "--namespace", "u", text="/memory\n")
    assert "memory is empty" in other.stdout


def test_generate_and_eval_read_a_store_and_reindex_makes_vectors_anew(place):
    facts = [f"resto_{n} | R_city | rome" for n in range(5)] + ["the red house stands by a river"]
    (place / "kb.jsonl").write_text("".join(json.dumps({"text": f, "kind": "fact"}) + "\n" for f in facts))
    where = ("--store", "kb.sqlite", "--namespace", "kb")
    assert "6 entries from 1 files" in memgpt(place, "memory", "import", "kb.jsonl", *where).stdout
    done = memgpt(
        place,
        "generate",
        "--memory",
        "kb.sqlite",
        "--namespace",
        "kb",
        "--json",
        "store.recall=2",
        text="red house\nresto_3\n",
    )
    assert done.returncode == 0, done.stderr
    assert "6 entries of 'kb' have no vector of this model yet" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(r["recalled"]) for r in rows] == [2, 2]
    assert "the red house stands by a river" in rows[0]["recalled"]
    done = memgpt(
        place,
        "eval",
        "--memory",
        "kb.sqlite",
        "--namespace",
        "kb",
        "--json",
        "-m",
        "exact",
        "-m",
        "recall",
        "eval.max_examples=4",
    )
    assert done.returncode == 0, done.stderr
    assert {"store", "empty"} <= set(json.loads(done.stdout))
    assert "no memory store at nowhere.sqlite" in memgpt(place, "generate", "--memory", "nowhere.sqlite").stderr
    assert "is empty" in memgpt(place, "generate", "--memory", "kb.sqlite", "--namespace", "other").stderr
    again = json.loads(memgpt(place, "memory", "reindex", "--json", *where).stdout)
    assert (again["added"], again["retired"]) == (0, 0)
    found = memgpt(place, "memory", "search", "river", "--json", *where, "--run", "debug").stdout
    assert json.loads(found.splitlines()[0])["similarity"] is not None


def test_a_second_preprocess_is_a_no_op(place):
    assert "Nothing to do" in memgpt(place, "preprocess", "data=dialog_babi").stdout


def test_runs_are_listed(place):
    rows = json.loads(memgpt(place, "runs", "--json").stdout)
    assert rows[0]["run"] == "debug"
    assert rows[0]["step"] == 4


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["train", "trainer=gpu9"], 2, "there is no trainer preset 'gpu9'"),
        (["train", "trainer=gpu4"], 2, "4 GPUs, found"),
        (["eval", "--run", "nothing"], 1, "no trained run 'nothing'"),
        (["eval", "--metric", "blue"], 2, "Did you mean 'bleu'"),
        (["config", "tran"], 2, "Did you mean 'train'"),
        (["generate", "-i", "nowhere.txt"], 2, "no such file"),
    ],
)
def test_errors_are_one_line_and_no_traceback(place, args, code, message):
    import torch

    if torch.cuda.device_count() >= 4 and "trainer=gpu4" in args:
        pytest.skip("this machine has four GPUs")
    done = memgpt(place, *args)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("memgpt: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback(place):
    import subprocess
    import sys

    command = [sys.executable, "-m", "memgpt_cli", "--debug", "runs", "show", "nothing"]
    assert "Traceback" in subprocess.run(command, cwd=place, capture_output=True, text=True).stderr


def test_every_command_has_help_with_an_example():
    for path, command in _commands(typer.main.get_command(app), "memgpt"):
        assert command.help, path
        assert "Example: `" in (command.epilog or ""), path
        assert path.split()[1] in command.epilog, path
        result = CliRunner().invoke(app, [*path.split()[1:], "--help"])
        assert result.exit_code == 0, path


def test_the_command_reference_is_what_the_code_says():
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "make docs writes it anew"
    assert (ROOT / "docs" / "settings.md").read_text() == settings_reference(), "make docs writes it anew"


def test_comma_lists_are_jobs():
    assert _sweep(["a=1,2", "b=x"]) == [["a=1", "b=x"], ["a=2", "b=x"]]
    assert _sweep(["eval.memories=[learned,empty]"]) == [["eval.memories=[learned,empty]"]]
    assert len(_sweep(["seed=1,2,3", "optim.lr=1e-3,1e-4"])) == 6


def test_a_foreign_memgpt_is_warned_of(tmp_path):
    script = tmp_path / "memgpt"
    script.write_text("#!/usr/bin/python\nfrom memgpt.main import app\n")
    (warning,) = foreign_scripts(str(tmp_path), str(script))
    assert "is another program of the same name and runs before ours" in warning
    script.write_text("#!/usr/bin/python\nfrom memgpt_cli.cli import main\n")
    assert foreign_scripts(str(tmp_path), str(script)) == []


def test_commands_of_the_documents_exist():
    """Every `memgpt …` line in a code block of the README and docs names a command there is, with settings that compose."""
    import itertools
    import re
    import shlex

    from memgpt_cli.config import compose

    known = {path.split()[1] for path, _ in _commands(typer.main.get_command(app), "memgpt")}
    found = 0
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", file.read_text(), re.DOTALL):
            for line in block.splitlines():
                line = line.removeprefix("$ ").split("#")[0].strip()
                if not line.startswith("memgpt "):
                    continue
                parts = shlex.shlex(line, posix=True, punctuation_chars="|<>")
                parts.whitespace_split = True
                words = list(itertools.takewhile(lambda word: word.strip("|<>"), parts))[1:]
                if words[0].startswith("-"):
                    continue
                assert words[0] in known, f"{file.name}: {line}"
                overrides = [w for w in words[1:] if "=" in w and not w.startswith("-") and not re.match(r"data=.*\.csv$", w)]
                if words[0] in ("preprocess", "train", "eval", "generate", "chat") and not any("," in o for o in overrides):
                    compose(overrides)
                found += 1
    assert found > 10
