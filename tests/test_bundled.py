"""The companion that comes along: one talks with it before anything is trained."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from memgpt_cli.checkpoint import find_run
from memgpt_cli.checkpoint.runs import BUNDLED, RUNS_ROOT, scores_folder
from memgpt_cli.cli.app import app
from memgpt_cli.errors import CheckpointError


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMGPT_HOME", str(tmp_path / "home"))
    return tmp_path


def said(*lines: str) -> str:
    done = CliRunner().invoke(app, ["chat", "--namespace", "anna"], input="\n".join([*lines, "/quit", ""]))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_one_talks_with_it_in_an_empty_folder(elsewhere):
    assert "Biscuit" in said("My cat is called Biscuit.")
    assert "Biscuit" in said("What is my cat called?")  # begun again, it remembers
    assert "康康" in said("我爸爸叫康康。", "我爸爸叫什么名字？")
    said("/forget Biscuit")
    assert "Biscuit" not in said("What is my cat called?")
    assert b"Biscuit" not in b"".join(p.read_bytes() for p in (elsewhere / "home").rglob("*") if p.is_file())


def test_it_is_a_run_like_any_other_by_its_name(elsewhere):
    assert find_run("companion", RUNS_ROOT) == BUNDLED
    assert scores_folder(BUNDLED) == Path("runs/companion/eval")  # nothing is written into the program
    assert scores_folder(Path("runs/mine")) == Path("runs/mine/eval")
    with pytest.raises(CheckpointError, match="--run companion"):  # who asks documents wants a model of their own
        find_run("", RUNS_ROOT)
