"""The packages of docs/extending.md, written out from the page, installed, and used."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the three packages in it, as pip installs them, and another one that cannot be loaded."""
    pytest.importorskip("hatchling")
    source, target = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("site")
    page = (ROOT / "docs/extending.md").read_text()
    found = re.findall(r"^`([\w-]+/[\w.]+)`\n\n```\w+\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    assert len(found) == 6
    broken = "memgpt-broken/pyproject.toml", found[0][1].replace("minutes", "broken").replace("MINUTES", "NONE")
    bad = [
        ("memgpt-bad/pyproject.toml", found[4][1].replace("count", "bad")),
        ("memgpt-bad/memgpt_bad.py", "raise ValueError('not today')\n"),
    ]
    for name, text in [*found, broken, ("memgpt-broken/memgpt_broken.py", "import no_such_library\n"), *bad]:
        file = source / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        assert len(text.splitlines()) <= 42, f"{name} is no small package any more"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*command, "--target", str(target), *(str(p) for p in sorted(source.iterdir()))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return target


def memgpt(folder: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "MEMGPT_HOME": str(folder / "home"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "memgpt_cli", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_source_of_ones_own(installed, tmp_path):
    meetings = [f"# Meeting {n}\nanna: we need {n} chairs\nben: {n} it is\n{n} chairs are bought\n" for n in range(8)]
    (tmp_path / "minutes.txt").write_text("\n".join(meetings) + "# Empty\n")
    (line,) = re.findall(r"^memgpt (preprocess .*)$", (ROOT / "docs/extending.md").read_text(), re.MULTILINE)
    import shlex

    done = memgpt(tmp_path, installed, *shlex.split(line), "data.on_error=quarantine", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["statistics"]["train"]["examples"] == 8
    assert told["statistics"]["train"]["kinds"] == {"turn": 16}
    assert "the meeting 'Empty' has nothing said" in (tmp_path / "data/minutes/rejects.jsonl").read_text()
    wrong = memgpt(tmp_path, installed, "preprocess", "data=records", "data.source=minuts", "data.path=.")
    assert "Did you mean 'minutes'" in wrong.stderr
    option = memgpt(
        tmp_path, installed, "preprocess", "data=records", "data.source=minutes", "data.path=.", "data.options.asc=x"
    )
    assert "Did you mean 'ask'" in option.stderr


def test_a_metric_of_ones_own(installed):
    code = (
        "from memgpt_cli.evaluation.metrics import check_metrics, find_metric; check_metrics(['first', 'exact'])\n"
        "(score,) = find_metric('first')(['The cat', 'a dog'], [['the house'], ['b']], 0); print(score.value, score.signature)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(installed)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("50.0 first|tok:word+cjkchar|case:lc|refs:any|bootstrap:0|memgpt:")


def test_a_command_of_ones_own(installed, tmp_path):
    assert memgpt(tmp_path, installed, "memory", "add", "one two three", "--namespace", "n").returncode == 0
    done = memgpt(tmp_path, installed, "count", "--namespace", "n")
    assert done.stdout == "3 words in 1 entries\n", done.stderr
    assert "Count the words of a memory" in memgpt(tmp_path, installed, "--help").stdout


def test_what_cannot_be_loaded_is_named_and_nothing_else_breaks(installed, tmp_path):
    done = memgpt(tmp_path, installed, "preprocess", "data=records", "data.source=broken", "data.path=.")
    assert done.returncode == 2
    assert "'broken' of memgpt-broken cannot be loaded (No module named 'no_such_library')" in done.stderr
    other = memgpt(tmp_path, installed, "runs")
    assert other.returncode == 0
    assert "'bad' of memgpt-bad cannot be loaded (not today)" in other.stderr
    assert "Traceback" not in other.stderr
