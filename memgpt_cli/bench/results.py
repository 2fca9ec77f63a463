"""What runs scored, as one page: made from the JSON that `memgpt eval` and `memgpt bench` left in their folders."""

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from memgpt_cli.checkpoint.runs import WEIGHTS, scores_folder
from memgpt_cli.errors import UsageError


def results_page(runs: Sequence[Path], command: str) -> str:
    """Markdown: each run's shape and training, and a table of each of its files of scores, nothing left out.

    Raises UsageError for a run that nothing was scored of.
    """
    parts = ["# Results", f"Printed by `{command}` from the JSON in the runs' folders; intervals are 95 % bootstrap ones."]
    for run in runs:
        files = sorted(scores_folder(run).glob("*.json"))
        if not files:
            raise UsageError(f"{run} holds no scores: memgpt eval --run {run.name} makes some")
        parts += [f"## {run.name}", _described(run)]
        for file in files:
            made = json.loads(file.read_text(encoding="utf-8"))
            parts += _rows(_measured(run, file), made) if isinstance(made, list) else _scores(run, file, made)
    return "\n\n".join(parts) + "\n"


def _described(run: Path) -> str:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    with safe_open(run / "model" / WEIGHTS, "pt") as file:
        names = [name for name in file.keys() if not name.endswith((".parts", ".same"))]  # noqa: SIM118
        size = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    trained, optim = config["trainer"], config["optim"]
    steps = json.loads((run / "model" / "config.json").read_text(encoding="utf-8")).get("notes", {}).get("step")
    return (
        f"`{_command(run, config)}` · {size / 1e6:.2f} M parameters · {trained['max_steps']:,} steps of at most "
        f"{trained['batch_tokens']:,} tokens, the best at step {steps:,} · {optim['optimizer']}, lr {optim['lr']:g} · seed {config['seed']}"
    )


def _command(run: Path, config: dict[str, Any]) -> str:
    return shlex.join(["memgpt", "train", *config.get("given", (f"run={run.name}",))])


def _scores(run: Path, file: Path, conditions: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    split = file.name.removesuffix("-scores.json")
    memories = list(conditions)
    names = list(dict.fromkeys(score["name"] for scores in conditions.values() for score in scores))
    rows = ["| " + " | ".join(["metric", *(f"memory={m}" for m in memories)]) + " |", "| --- " * (1 + len(memories)) + "|"]
    for name in names:
        found = [next((s for s in conditions[m] if s["name"] == name and s["n"]), None) for m in memories]
        rows.append("| " + " | ".join([name, *map(_cell, found)]) + " |")
    yield f"`memgpt eval --run {run.name}` on {split}:"
    yield "\n".join(rows)


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    low, high = score.get("low"), score.get("high")
    interval = f" [{low:.1f}, {high:.1f}]" if low is not None and high is not None else ""
    return f"{score['value']:.2f}{interval} (n={score['n']:,})"


def _measured(run: Path, file: Path) -> str:
    """What printed a list of rows."""
    split, dash, _ = file.stem.partition("-retrieval")
    if dash:
        return f"`memgpt eval --run {run.name}` on {split}, what is right found among all entries:"
    name, dash, conversations = file.stem.removeprefix("bench-").partition("-")
    return f"`memgpt bench {name}{f' {conversations}.jsonl' if dash else ''}`:"


def _rows(title: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    yield title
    lines = ["| |" + " |" * len(rows), "| --- " * (1 + len(rows)) + "|"]
    lines += [f"| {name} | " + " | ".join(_number(row.get(name)) for row in flat) + " |" for name in names]
    yield "\n".join(lines)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in row.items():
        out |= {f"{name}: {key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return out


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
