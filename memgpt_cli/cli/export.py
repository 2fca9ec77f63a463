"""memgpt export."""

from pathlib import Path
from typing import Annotated

import typer

from memgpt_cli.cli.app import Json, app, console, print_json, progress


@app.command(epilog="Example: `memgpt export dialogsum-flan-t5-base exported --format hf --push me/dialogsum-memory`")
def export(
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    kind: Annotated[
        str, typer.Option("--format", help="hf (transformers), safetensors (--run reads it), onnx, ctranslate2.")
    ] = "hf",
    push: Annotated[str, typer.Option("--push", metavar="REPO", help="Upload to this repository of the hub as well.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Where --push makes the repository, make it private.")] = False,
    license: Annotated[str, typer.Option("--license", help="For the model card, such as apache-2.0.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the export that DIR holds.")] = False,
    as_json: Json = False,
) -> None:
    """Hand a trained model on in a format of others; what was written is loaded there and compared before it is kept."""
    from memgpt_cli import hub
    from memgpt_cli.checkpoint.runs import RUNS_ROOT
    from memgpt_cli.export import export_run

    with progress(f"exporting {run} as {kind}"):
        made = export_run(run, RUNS_ROOT, folder, kind, license, force)
    address = hub.push(folder, push, private) if push else ""
    if as_json:
        print_json({"folder": str(folder), "format": kind, "checks": made.checks, "notes": made.notes, "pushed": address})
        return
    out = console()
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    out.print(f"{folder}: {kind}, {size / 1e6:,.1f} MB, {sum(1 for p in folder.rglob('*') if p.is_file())} files", markup=False)
    for check in made.checks:
        out.print(f"  [green]✓[/] {check}")
    for note in made.notes:
        out.print(f"  [yellow]note:[/] {note}")
    if address:
        out.print(f"uploaded to {address}")
