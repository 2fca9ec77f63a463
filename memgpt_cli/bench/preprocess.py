"""Time and memory of preprocessing against the size of what is read, each size in a process of its own."""

import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[str, int], None]


@dataclass(frozen=True)
class Row:
    """One size: megabytes read, seconds, and the process's peak of resident memory beyond what it took before it began."""

    read_mb: float
    seconds: float
    peak_mb: float
    episodes: int
    written_mb: float


def write_records(path: Path, size: int, seed: int = 1) -> None:
    """Made-up records of some 600 bytes, until `size` bytes are written."""
    rng, written = random.Random(seed), 0
    words = [
        "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 4))) for _ in range(20_000)
    ]
    with open(path, "w", encoding="utf-8") as file:
        number = 0
        while written < size:
            text = [" ".join(rng.choices(words, k=rng.randint(8, 20))) for _ in range(5)]
            record = {"input": f"{number} {text[0]} ?", "target": text[1], "memory": text[2:]}
            written += file.write(json.dumps(record) + "\n")
            number += 1


def _peak() -> float:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def _measure(folder: str, out: Any) -> None:
    from memgpt_cli.config import DataConfig, TokenizerConfig
    from memgpt_cli.data.preprocess import preprocess

    config = DataConfig(
        name="bench", source="records", path=folder, files={"train": "records.jsonl"}, hold_out={"valid": 0.05},
        tokenizer=TokenizerConfig(vocab_size=4000, sample_mb=4),
    )  # fmt: skip
    before, began = _peak(), time.monotonic()
    made = preprocess(config, Path(folder) / "data")
    written = sum(p.stat().st_size for p in made.folder.rglob("*") if p.is_file())
    episodes = sum(s["episodes"] for s in made.manifest["statistics"].values())
    out.put((time.monotonic() - began, _peak() - before, episodes, written / 1e6))


def measure_preprocess(sizes: list[int], report: Report = lambda stage, n: None) -> list[Row]:
    """One row a size in megabytes."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            report(f"writing {size:,} MB of records", 0)
            write_records(Path(folder) / "records.jsonl", size * 1_000_000)
            report(f"preprocessing {size:,} MB", 0)
            context = multiprocessing.get_context("spawn")
            out = context.Queue()
            process = context.Process(target=_measure, args=(folder, out))
            process.start()
            seconds, peak, episodes, written = out.get()
            process.join()
            rows.append(Row(size, seconds, peak, episodes, written))
    return rows
