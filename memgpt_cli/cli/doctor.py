"""memgpt doctor."""

from pathlib import Path
from typing import Annotated

import typer

from memgpt_cli.cli.app import DATA_ROOT, ConfigDir, Json, Overrides, app, console, own_data, print_json, progress


@app.command(epilog="Example: `memgpt doctor`; `memgpt doctor --fit experiment=flan_t5_dialogsum trainer.batch_tokens=16000`")
def doctor(
    overrides: Overrides = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Estimate the memory that `memgpt train` takes with these settings.")
    ] = False,
    measure: Annotated[bool, typer.Option("--measure", help="With --fit: run two real steps here, and compare.")] = False,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Check the installation, the hardware and where things are kept; or whether a training fits."""
    from memgpt_cli.errors import UsageError

    if fit:
        _fit(overrides or [], config_dir, measure, as_json)
        return
    if overrides or measure:
        raise UsageError("settings and --measure are for memgpt doctor --fit: add --fit")
    findings, warnings = _findings()
    if as_json:
        print_json({"findings": findings, "warnings": warnings})
        return
    out = console()
    for name, what in findings.items():
        out.print(f"{name:<16} {what}", markup=False)
    for warning in warnings:
        out.print(f"[yellow]warning: {warning}[/]")
    if not warnings:
        out.print("[green]nothing to complain of[/]")


def _findings() -> tuple[dict[str, str], list[str]]:
    """What is installed here, and what of it is dangerous or in the way."""
    import importlib.metadata
    import os
    import platform
    import shutil
    import sys

    import torch

    from memgpt_cli import __version__
    from memgpt_cli.config import conf_dir, home

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    findings = {
        "memgpt": f"{__version__} at {Path(__file__).parent.parent}",
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": platform.platform(),
        "configuration": str(conf_dir()),
        "personal state": f"{home()} ($MEMGPT_HOME)",
        "processors": str(os.cpu_count()),
    }
    for name in ("torch", "lightning", "hydra-core", "datasets", "sentencepiece", "sacrebleu", "rouge-score"):
        findings[name] = version(name) or "missing: pip install --force-reinstall memgpt-cli"
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    findings["GPUs"] = ", ".join(gpus) or "none: trainer=cpu"
    warnings = foreign_scripts(os.environ.get("PATH", ""), shutil.which("memgpt"))
    warnings += [
        f"{name} 2.6.2 and 2.6.3 steal credentials (GHSA-w37p-236h-pfx3): pip install -U {name}, and change your passwords"
        for name in ("lightning", "pytorch-lightning")
        if version(name) in ("2.6.2", "2.6.3")
    ]
    return findings, warnings


_GIB = 2**30
_SIZES = {"8 GB": 8, "16 GB": 16, "24 GB": 24, "40 GB": 40, "80 GB": 80}  # of common machines and cards


def _fit(overrides: list[str], config_dir: Path | None, measure: bool, as_json: bool) -> None:
    """The table of `memgpt doctor --fit`."""
    from dataclasses import asdict

    from rich.table import Table

    from memgpt_cli.config import compose
    from memgpt_cli.training.footprint import estimate

    config = compose(own_data(overrides), config_dir)
    with progress("counting what one training step keeps"):
        found = estimate(config, DATA_ROOT)
    measured = 0
    if measure:
        from memgpt_cli.training.measured import measure as run

        with progress("running two real steps"):
            measured = run(config, DATA_ROOT)
    if as_json:
        print_json({**asdict(found), "measured": measured or None})
        return
    table = Table(title=f"memory of one process, batches of {found.batch_tokens:,} tokens", title_justify="left")
    table.add_column("")
    table.add_column("GiB", justify="right")
    for name in ("parameters", "average", "gradients", "optimizer", "activations"):
        table.add_row(name, f"{getattr(found, name) / _GIB:.2f}")
    table.add_row("[bold]peak[/]", f"[bold]{found.total / _GIB:.2f}[/]")
    out = console()
    out.print(table)
    fits = [(name, found.largest_batch(size * _GIB * 9 // 10)) for name, size in _SIZES.items()]
    out.print(
        "largest trainer.batch_tokens, a tenth left free: " + " · ".join(f"{n}: {b:,}" if b else f"{n}: –" for n, b in fits)
    )
    how = (
        "the largest batches of the data"
        if found.from_data
        else "batches filled to data.limits (preprocess the data to count its own)"
    )
    out.print(f"counted on {how}; libraries and the device's context come on top")
    if measured:
        out.print(f"measured here: {measured / _GIB:.2f} GiB, the estimate is {found.total / measured - 1:+.1%} off")


def foreign_scripts(path: str, first: str | None) -> list[str]:
    """Warnings of `memgpt` programs on the PATH that are not ours (the PyPI name `memgpt` is somebody else's)."""
    out = []
    for folder in dict.fromkeys(path.split(":")):
        script = Path(folder) / "memgpt"
        try:
            if not script.is_file():
                continue
            ours = "memgpt_cli" in script.read_bytes()[:4096].decode("utf-8", errors="replace")
        except OSError:
            continue
        if not ours:
            runs_first = " and runs before ours" if first == str(script) else ""
            out.append(
                f"{script} is another program of the same name{runs_first}: pip uninstall memgpt, or call python -m memgpt_cli"
            )
    return out
