"""memgpt train."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from memgpt_cli.cli.app import ConfigDir, Overrides, app, attach_corpus, console, data_folder, own_data, progress, run_name

MOST_JOBS = 1000


@app.command(
    epilog="Example: `memgpt train data=my.csv`; `memgpt train experiment=facts optim.lr=1e-3`; `memgpt train seed=1,2,3` trains three runs."
)
def train(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run and start over.")] = False,
) -> None:
    """Train a model, or go on training it: the same command resumes after any interruption."""
    from memgpt_cli.checkpoint.runs import RUNS_ROOT
    from memgpt_cli.config import compose
    from memgpt_cli.errors import TrainingStopped

    given = own_data(overrides)
    jobs = _sweep(given)
    if len(jobs) > 1:
        _run_jobs(jobs, config_dir, fresh)
        return
    config = compose(given, config_dir)
    from memgpt_cli.training.fit import is_first_process
    from memgpt_cli.training.fit import train as fit
    from memgpt_cli.training.hardware import check_devices

    check_devices(config.trainer)
    child = not is_first_process()
    folder = data_folder(config.data)  # of several processes the first to come makes it, and the others wait
    run, out = RUNS_ROOT / run_name(config), console()
    try:
        fit(config, folder, run, out, fresh=fresh and not child, given=given)
    except TrainingStopped as stopped:
        if child:  # the first process says it
            sys.exit(stopped.exit_code)
        raise
    if not child:
        _weigh(run, folder)
        out.print(f"model: {run / 'model'} · learning curve: {run / 'learning_curve.png'} · next: memgpt eval --run {run.name}")


def _weigh(run: Path, data: Path) -> None:
    """Over a corpus: how much vectors shall count beside words where entries are recalled, by the validation set."""
    from memgpt_cli.checkpoint.runs import MODEL, SHARE, note
    from memgpt_cli.data.corpus import open_corpus
    from memgpt_cli.evaluation.recalled import best_share
    from memgpt_cli.inference.session import Session

    split = data / "valid"
    if open_corpus(data) is None or not split.is_dir() or not MODEL.marks(run / "model"):
        return
    with Session.open(str(run)) as session:
        if not attach_corpus(session, data):
            return
        with progress("weighing words and vectors") as report:
            share = best_share(split, session, report=report)
    if share is not None:
        note(run / "model", SHARE, share)
        console().print(
            f"recall: vectors count {share:.0%} beside words, which ranks best what is right for the validation set"
        )


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
        config = compose(job, config_dir)
        suffix = slug("-".join(o.replace("=", "") for o in job if o.split("=")[0] in varied))
        given = [o for o in job if not o.startswith("run=")]
        command = [sys.executable, "-m", "memgpt_cli", "train", *given, f"run={run_name(config)}-{suffix}"]
        command += (["--config-dir", str(config_dir)] if config_dir else []) + (["--fresh"] if fresh else [])
        console().print(f"job {number} of {len(jobs)}: {' '.join(job)}")
        code = subprocess.run(command).returncode
        if code:
            raise typer.Exit(code)
