"""memgpt runs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from memgpt_cli.cli.app import HELP, Json, app, console, print_json

runs = typer.Typer(context_settings=HELP, help="Trained runs: list, look at, delete.", invoke_without_command=True)
app.add_typer(runs, name="runs")


@runs.callback(epilog="Example: `memgpt runs`; `memgpt runs show facts-tiny`")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List trained runs, the newest first."""
    from rich.markup import escape
    from rich.table import Table

    from memgpt_cli.checkpoint.runs import RUNS_ROOT, run_folders

    if context.invoked_subcommand:
        return
    rows = [_row(folder) for folder in run_folders(RUNS_ROOT)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        console().print(
            f"no trained run in {RUNS_ROOT}/: memgpt train makes one; memgpt chat talks with the companion that comes along"
        )
        return
    table = Table("run", "data", "step", "validation loss", "exact %")
    for row in rows:
        step, loss, exact = (row.get(name) for name in ("step", "val/loss", "val/exact"))
        cells = (f"{step:.0f}" if step is not None else "–", f"{loss:.4f}" if loss is not None else "–")
        table.add_row(escape(row["run"]), row["data"], *cells, f"{100 * exact:.1f}" if exact is not None else "–")
    console().print(table)
    for row in rows:
        if "problem" in row:
            console().print(row["problem"], style="yellow", markup=False)


def _row(folder: Path) -> dict[str, Any]:
    from memgpt_cli.checkpoint.untrusted import describe_run
    from memgpt_cli.errors import CheckpointError

    try:
        described = describe_run(folder / "model")
    except CheckpointError as error:
        return {"run": folder.name, "data": "", "problem": str(error)}
    numbers = {k: v for k, v in described.notes.items() if isinstance(v, int | float) and abs(v) < 1e300}
    scores = {name: numbers.get(name) for name in ("step", "val/loss", "val/exact")}
    return {"run": folder.name, "data": described.config.data.name, **scores}


@runs.command(epilog="Example: `memgpt runs show facts-tiny`")
def show(run: Annotated[str, typer.Argument(help="Its name or folder.")], as_json: Json = False) -> None:
    """Show what a run is: its model, its data, what its examples saw, its scores, and what of the defaults it changes."""
    from memgpt_cli.checkpoint import find_run
    from memgpt_cli.checkpoint.runs import RUNS_ROOT, fingerprint, scores_folder
    from memgpt_cli.checkpoint.untrusted import describe_run
    from memgpt_cli.config import Config, to_dict
    from memgpt_cli.data.dataset import Seen

    folder = find_run(run, RUNS_ROOT)
    described = describe_run(folder / "model")
    seen = Seen.of(described.notes.get("seen"))
    plain, own = (dict(_flat(to_dict(config))) for config in (Config(), described.config))
    changed = {name: value for name, value in own.items() if plain.get(name) != value}
    scores = {p.stem.removesuffix("-scores"): _scores(p) for p in sorted(scores_folder(folder).glob("*-scores.json"))}
    row = _row(folder) | {"fingerprint": fingerprint(folder / "model"), "seen": vars(seen)}
    if as_json:
        print_json({**row, "settings": changed, "scores": scores})
        return
    out = console()
    for name, value in row.items():
        said = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        out.print(f"{name:<16} {said}", markup=False)
    out.print("settings other than the defaults:", style="bold")
    for name, value in changed.items():
        out.print(f"  {name} = {value!r}", markup=False)
    for split, conditions in scores.items():
        out.print(f"scores on {split}:", style="bold")
        for memory, found in conditions.items():
            out.print(f"  memory={memory}: " + " · ".join(f"{s['name']} {s['value']:.2f}" for s in found), markup=False)


def _scores(file: Path) -> dict[str, list[dict[str, Any]]]:
    """What an evaluation kept; raises CheckpointError where it is damaged."""
    from memgpt_cli.errors import CheckpointError

    try:
        found: dict[str, list[dict[str, Any]]] = json.loads(file.read_text())
        assert all(isinstance(s["value"], int | float) for scores in found.values() for s in scores)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise CheckpointError(f"{file} is damaged: memgpt eval writes it anew") from error
    return found


def _flat(values: dict[str, Any], place: str = "") -> Any:
    for name, value in values.items():
        dotted = f"{place}.{name}" if place else name
        if isinstance(value, dict) and value:
            yield from _flat(value, dotted)
        else:
            yield dotted, value


@runs.command(epilog="Example: `memgpt runs rm debug --yes`")
def rm(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names of runs, or their folders.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete runs: what memgpt wrote of them, and nothing else; a folder that holds other files is left as it is."""
    import sys

    from memgpt_cli.checkpoint.runs import RUN, RUNS_ROOT
    from memgpt_cli.errors import UsageError
    from memgpt_cli.files import check_own, remove_folder

    folders = [RUNS_ROOT / name if (RUNS_ROOT / name).is_dir() else Path(name) for name in names]
    advice = "move what is yours out of it first"
    for folder in folders:
        if not RUN.marks(folder):
            raise UsageError(f"{folder} is no run: `memgpt runs` lists them")
        check_own(folder, RUN, advice)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{', '.join(map(str, folders))} would be deleted: --yes says that you mean it")
        typer.confirm(f"Delete {', '.join(map(str, folders))} for good?", abort=True, err=True)
    for folder in folders:
        remove_folder(folder, RUN, advice)
        console().print(f"deleted {folder}", markup=False)
