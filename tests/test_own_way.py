"""What a user owns, as docs/corpus.md says: a table of questions and a folder of documents, to answers.

Seven minutes: `make test-slow` runs it, `make test-long` leaves it out for its name.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=1200
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def exact(folder: Path, documents: str, store: str) -> float:
    """Of the 300 questions of asked.csv, about documents that no training question was about."""
    run(folder, "-m", "memgpt_cli", "memory", "import", documents, "--run", "mine", "--store", store, "--namespace", "docs")
    scores = run(
        folder, "-m", "memgpt_cli", "eval", "--run", "mine", "--file", "own/asked.csv", "--store", store, "--namespace", "docs",
        "--metric", "exact", "--json", "eval.memories=[learned]",
    )  # fmt: skip
    (found,) = [s for s in json.loads(scores)["store"] if s["name"] == "exact"]
    assert found["n"] == 300
    return float(found["value"])


@pytest.mark.slow
def test_a_table_and_many_documents_become_answers(tmp_path):
    """The bars: 95 % exact over 300 unseen documents in the store, 90 % over 10,000."""
    run(tmp_path, str(ROOT / "docs/own_rows.py"), "1", "own", "10000")
    table = ("data=own/questions.csv", "data.corpus=own/documents")
    run(tmp_path, "-m", "memgpt_cli", "train", *table, "run=mine", "seed=1", "trainer.max_steps=600")
    (tmp_path / "few").mkdir()
    for file in sorted((tmp_path / "own/documents").iterdir())[:300]:
        shutil.copy(file, tmp_path / "few" / file.name)
    assert exact(tmp_path, "few", "few.sqlite") >= 95
    assert exact(tmp_path, "own/documents", "all.sqlite") >= 90
    (tmp_path / "asked.txt").write_text("From what time can one visit Wesismark Theatre?\n")
    where = ("--run", "mine", "--store", "all.sqlite", "--namespace", "docs", "--input", "asked.txt", "--json")
    answer = json.loads(run(tmp_path, "-m", "memgpt_cli", "generate", *where))
    assert (answer["rests_on"]["source"], answer["rests_on"]["line"]) == ("own/documents/00000.txt", 1)
