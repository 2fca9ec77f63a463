"""memgpt preprocess."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import DATA_ROOT, ConfigDir, Json, Overrides, app, changes_of, console, own_data, print_json, progress

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

    config = compose(own_data(overrides), config_dir)
    began = time.monotonic()
    with progress("preprocessing") as report:
        result = run(config.data, DATA_ROOT, report, force)
    if as_json:
        print_json({"folder": str(result.folder), "already_there": result.already_there, **result.manifest})
        return
    out = console()
    if result.already_there:
        out.print(f"{result.folder} is up to date: same source, same settings. Nothing to do (--force builds it again).")
    out.print(_statistics(result.manifest["statistics"], config.data.name))
    if corpus := result.manifest.get("corpus"):
        length = corpus["entry tokens"]
        out.print(
            f"  corpus: {corpus['entries']:,} entries, {corpus['tokens']:,} tokens ({length['mean']:,} / {length['p95']:,} / {length['max']:,})"
        )
    changes = changes_of(result.manifest)
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
