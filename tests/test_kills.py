"""`kill -9` at random moments: nothing acknowledged is lost, nothing half-made looks whole, and the next command goes on.

`make test` kills a dozen times, `make test-slow` over a hundred.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_training import OVERRIDES, losses

from memgpt_cli.checkpoint import load_model
from memgpt_cli.data.dataset import DATA_SET, EpisodeDataset
from memgpt_cli.store import bundle, open_store
from memgpt_cli.training.callbacks import checkpoint_folders


def rounds(fast: int, slow: int) -> list[object]:
    """Two parameters: a few kills for every run of the suite, the rest by hand."""
    return [pytest.param(fast, id="some"), pytest.param(slow, id="many", marks=pytest.mark.slow)]


class Victim:
    """Runs `memgpt …` in a folder, and kills it."""

    def __init__(self, folder: Path, seed: str) -> None:
        self.folder, self.rng = folder, random.Random(seed)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "MEMGPT_HOME": str(self.folder / "home"), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "memgpt_cli", *words]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def killed(self, whole_s: float, *words: str) -> str:
        """What it printed before it was killed, or had ended."""
        process = self.start(*words)
        time.sleep(self.rng.uniform(0.1, 1.1) * whole_s)
        process.send_signal(signal.SIGKILL)
        return process.communicate()[0]

    def whole(self, *words: str) -> tuple[str, float]:
        began = time.monotonic()
        process = self.start(*words)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        return out, time.monotonic() - began


@pytest.fixture
def victim(tmp_path, request) -> Victim:
    return Victim(tmp_path, request.node.name)


def unfinished(folder: Path) -> list[str]:
    return sorted(str(p) for p in folder.rglob("*.partial-*"))


@pytest.mark.parametrize("kills", rounds(2, 20))
def test_preprocess(victim, kills):
    (victim.folder / "raw").mkdir()
    rows = [{"input": f"question {n} of the red house", "target": f"answer {n}", "memory": [f"fact {n}"]} for n in range(4000)]
    (victim.folder / "raw" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ("preprocess", "data=records", "data.path=raw", "data.tokenizer.vocab_size=400", "--force")
    _, seconds = victim.whole(*words)
    made = victim.folder / "data" / "records"
    sound = {split: len(EpisodeDataset(made / split)) for split in ("train", "valid")}
    for _ in range(kills):
        if victim.rng.random() < 0.5:
            shutil.rmtree(made, ignore_errors=True)
        victim.killed(seconds, *words)
        if made.exists():
            assert DATA_SET.marks(made)
            assert {split: len(EpisodeDataset(made / split)) for split in sound} == sound
    victim.whole(*words)
    assert unfinished(victim.folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("kills", rounds(1, 20))
def test_train(victim, kills):
    words = ("train", *OVERRIDES, "trainer.max_steps=60", "trainer.val_every=7", "trainer.checkpoint_every=3")
    other = Victim(victim.folder / "whole", "")
    other.folder.mkdir()
    _, seconds = other.whole(*words)
    run = victim.folder / "runs" / "t"
    for _ in range(kills):
        victim.killed(seconds, *words)
        for folder in checkpoint_folders(run):
            assert {p.name for p in folder.iterdir()} == {"state.safetensors", "state.json"}
        if (run / "model").exists():
            load_model(run / "model")
    victim.whole(*words)
    assert losses(run) == losses(other.folder / "runs" / "t")
    weights = [(f / "runs/t/model/model.safetensors").read_bytes() for f in (victim.folder, other.folder)]
    assert weights[0] == weights[1]
    assert unfinished(victim.folder / "runs") == []


@pytest.mark.parametrize("kills", rounds(2, 20))
def test_import(victim, kills):
    for k in range(6):
        notes = [{"text": f"note {k}/{n} about the house by the river"} for n in range(1500)]
        (victim.folder / f"{k}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in notes))
    files = [f"{k}.jsonl" for k in range(6)]
    words = ("memory", "import", *files, "--namespace", "n", "--store")
    _, seconds = victim.whole(*words, "timed.sqlite")
    before = 0
    for _ in range(kills):
        victim.killed(seconds, *words, "m.sqlite")
        if (victim.folder / "m.sqlite").exists():
            with open_store(str(victim.folder / "m.sqlite")) as store:
                assert store.verify() == []
                count = len(list(store.all("n")))
                assert count >= before, "what was kept once stays"
                before = count
    victim.whole(*words, "m.sqlite")
    with open_store(str(victim.folder / "m.sqlite")) as store:
        assert sorted(e.text for e in store.all("n")) == sorted(
            f"note {k}/{n} about the house by the river" for k in range(6) for n in range(1500)
        )
        assert store.verify() == []


@pytest.mark.parametrize("kills", rounds(2, 20))
def test_forget(victim, kills):
    store_of = victim.folder / "m.sqlite"
    (victim.folder / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"secret {n}", "kind": "fact" if n % 2 else "note"}) + "\n" for n in range(6000))
    )
    victim.whole("memory", "import", "a.jsonl", "--store", "full.sqlite", "--namespace", "n")
    shutil.copy(victim.folder / "full.sqlite", store_of)
    words = ("memory", "forget", "--where", "kind=fact", "--yes", "--json", "--store", "m.sqlite", "--namespace", "n")
    _, seconds = victim.whole(*words)
    for _ in range(kills):
        for left in victim.folder.glob("m.sqlite*"):
            left.unlink()
        shutil.copy(victim.folder / "full.sqlite", store_of)
        said = victim.killed(seconds, *words)
        with open_store(str(store_of)) as store:
            assert store.verify() == []
            kinds = {e.kind for e in store.all("n")}
            count = len(list(store.all("n")))
            assert (count, kinds) in ((6000, {"fact", "note"}), (3000, {"note"})), "all of it, or nothing"
        if '"state"' in said:
            assert count == 3000, "what was acknowledged has happened"
        if '"state": "erased"' in said:
            on_disk = b"".join(p.read_bytes() for p in victim.folder.glob("m.sqlite*"))
            assert b"secret 5999" not in on_disk, "and so has the erasure, in every file"
        with open_store(str(store_of)) as store:
            store.compact()
        if count == 3000:
            assert b"secret 5999" not in store_of.read_bytes()


@pytest.mark.parametrize("kills", rounds(2, 20))
def test_export(victim, kills):
    (victim.folder / "a.jsonl").write_text("".join(json.dumps({"text": f"note {n}"}) + "\n" for n in range(8000)))
    victim.whole("memory", "import", "a.jsonl", "--store", "m.sqlite", "--namespace", "n")
    words = ("memory", "export", "out", "--store", "m.sqlite", "--namespace", "n")
    _, seconds = victim.whole(*words)
    out = victim.folder / "out"
    for n in range(kills):
        shutil.rmtree(out, ignore_errors=True)
        victim.killed(seconds, *words)
        if out.exists():
            with open_store(str(victim.folder / f"{n}.sqlite")) as store:
                assert bundle.load(store, "n", out).new == 8000
    shutil.rmtree(out, ignore_errors=True)
    victim.whole(*words)
    assert unfinished(victim.folder) == []


@pytest.mark.parametrize("kills", rounds(2, 20))
def test_chat(victim, small_run, kills):
    shutil.copytree(small_run, victim.folder / "runs" / "small")
    acknowledged: list[str] = []
    for turn in range(kills):
        process = victim.start("chat", "--namespace", "n", "generate.max_tokens=4", "generate.min_tokens=1")
        assert process.stdin is not None
        assert process.stdout is not None
        said = [f"message {turn}/{n}" for n in range(200)]
        process.stdin.write("\n".join(said) + "\n")
        process.stdin.flush()
        asked = ""
        until = time.monotonic() + victim.rng.uniform(0.0, 0.6)
        for line in process.stdout:
            if line.startswith("you> "):
                asked = line.removeprefix("you> ").strip()
            elif line.startswith("bot> ") and asked:
                acknowledged.append(asked)
                if time.monotonic() > until:
                    break
        process.kill()
        process.communicate()
    with open_store(str(victim.folder / "home" / "memory.sqlite")) as store:
        assert store.verify() == []
        kept = [e.meta["said"] for e in store.all("n") if e.meta.get("speaker") == "user"]
    assert acknowledged
    assert [text for text in acknowledged if text not in kept] == []
