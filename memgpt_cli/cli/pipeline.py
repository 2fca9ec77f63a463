"""memgpt preprocess and memgpt train."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import (
    DATA_ROOT,
    RUNS_ROOT,
    ConfigDir,
    Json,
    Overrides,
    app,
    console,
    data_folder,
    print_json,
    progress,
    run_name,
)

if TYPE_CHECKING:
    from rich.table import Table


@app.command(epilog="Example: `memgpt preprocess data=kdconv data.path=kdconv data.on_error=quarantine`")
def preprocess(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    force: Annotated[bool, typer.Option("--force", help="Build it again even if nothing changed.")] = False,
    as_json: Json = False,
) -> None:
    """Turn raw text into episodes on disk, with a tokenizer, a manifest and statistics."""
    import time

    from memgpt_cli.config import compose
    from memgpt_cli.data.preprocess import REJECTS
    from memgpt_cli.data.preprocess import preprocess as run

    config = compose("preprocess", overrides or [], config_dir)
    began = time.monotonic()
    with progress("preprocessing") as report:
        result = run(config.data, DATA_ROOT, report, force)
    if as_json:
        print_json({"folder": str(result.folder), "already_there": result.already_there, **result.manifest})
        return
    out = console()
    if result.already_there:
        out.print(f"{result.folder} is up to date: same source, same settings. Nothing to do (--force builds it again).")
        return
    out.print(_statistics(result.manifest["statistics"], config.data.name))
    changes = [(split, *item) for split, s in result.manifest["statistics"].items() for item in s["changes"].items()]
    for split, what, count in changes:
        out.print(f"  {split}: {what}: {count:,}")
    if not changes:
        out.print("  nothing was normalised, split, truncated, dropped or rejected")
    tokenizer = result.manifest["tokenizer"]
    out.print(f"{result.folder}: tokenizer of {tokenizer['pieces']:,} pieces, {time.monotonic() - began:.1f} s")
    if (result.folder / REJECTS).is_file():
        out.print(f"[yellow]rejected records are in {result.folder / REJECTS}[/]")


def _statistics(statistics: dict[str, Any], name: str) -> "Table":
    from rich.table import Table

    table = Table(title=f"{name} (mean / 95th percentile / longest)", title_justify="left")
    table.add_column("")
    for split in statistics:
        table.add_column(split, justify="right")
    for what in ("episodes", "examples", "entries", "tokens"):
        table.add_row(what, *(f"{s[what]:,}" for s in statistics.values()))
    for what in ("entries per episode", "entries seen per example", "input tokens", "target tokens", "entry tokens"):
        table.add_row(what, *(f"{s[what]['mean']:,} / {s[what]['p95']:,} / {s[what]['max']:,}" for s in statistics.values()))
    return table


@app.command(epilog="Example: `memgpt train experiment=facts optim.lr=1e-3`; `memgpt train seed=1,2,3` trains three runs.")
def train(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run and start over.")] = False,
) -> None:
    """Train a model, or go on training it: the same command resumes after any interruption."""
    from memgpt_cli.config import compose
    from memgpt_cli.errors import TrainingStopped

    given = overrides or []
    jobs = _sweep(given)
    if len(jobs) > 1:
        _run_jobs(jobs, config_dir, fresh)
        return
    config = compose("train", given, config_dir)
    from memgpt_cli.training.fit import is_first_process
    from memgpt_cli.training.fit import train as fit
    from memgpt_cli.training.hardware import check_devices

    check_devices(config.trainer)
    child = not is_first_process()
    folder = data_folder(config.data)  # of several processes the first to come makes it, and the others wait
    run, out = RUNS_ROOT / run_name(config), console()
    try:
        fit(config, folder, run, out, fresh=fresh and not child)
    except TrainingStopped as stopped:
        if child:  # the first process says it
            sys.exit(stopped.exit_code)
        raise
    if not child:
        out.print(f"model: {run / 'model'} · learning curve: {run / 'learning_curve.png'} · next: memgpt eval --run {run.name}")


MOST_JOBS = 1000


def _sweep(overrides: list[str]) -> list[list[str]]:
    """Every combination of comma lists, as Hydra's multirun makes them; one list of overrides a job."""
    if not any("," in o for o in overrides):
        return [overrides]
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from memgpt_cli.errors import ConfigError

    jobs: list[list[str]] = [[]]
    try:
        for part in OverridesParser.create().parse_overrides(overrides):
            values = [part.input_line or ""]
            if part.is_sweep_override():
                values = [
                    f"{part.get_key_element()}={v}" for v in itertools.islice(part.sweep_string_iterator(), MOST_JOBS + 1)
                ]
            jobs = [[*job, value] for job in jobs for value in values]
            if len(jobs) > MOST_JOBS:
                raise ConfigError(f"{part.input_line} makes more than {MOST_JOBS:,} trainings: give fewer values")
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{' '.join(overrides)[:200]} cannot be read as lists of values, as in seed=1,2,3") from error
    return jobs


def _run_jobs(jobs: list[list[str]], config_dir: Path | None, fresh: bool) -> None:
    from memgpt_cli.config import compose
    from memgpt_cli.files import slug

    varied = {o.split("=")[0] for job in jobs for o in job if any(o not in other for other in jobs)}
    for number, job in enumerate(jobs, 1):
        config = compose("train", job, config_dir)
        suffix = slug("-".join(o.replace("=", "") for o in job if o.split("=")[0] in varied))
        given = [o for o in job if not o.startswith("run=")]
        command = [sys.executable, "-m", "memgpt_cli", "train", *given, f"run={run_name(config)}-{suffix}"]
        command += (["--config-dir", str(config_dir)] if config_dir else []) + (["--fresh"] if fresh else [])
        console().print(f"job {number} of {len(jobs)}: {' '.join(job)}")
        code = subprocess.run(command).returncode
        if code:
            raise typer.Exit(code)
