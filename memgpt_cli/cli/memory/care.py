"""memgpt memory: how a store is, and what keeps it well."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from memgpt_cli.cli.app import Json, KeyEnv, Namespace, StoreUrl, console, print_json, progress
from memgpt_cli.cli.memory.shared import MAX_ID, memory, open_memory, say_receipt, shown


@memory.command(epilog="Example: `memgpt memory stats --namespace anna`")
def stats(store: StoreUrl = "", namespace: Namespace = "", key_env: KeyEnv = "", as_json: Json = False) -> None:
    """Show how much is remembered, of what kind, how old and how long, and by which models it is found."""
    memory_, owner, _ = open_memory(store, namespace, key_env)
    with memory_:
        found, engine = memory_.stats(owner), memory_.capabilities()
    if as_json:
        print_json({**asdict(found), "engine": asdict(engine)})
        return
    out = console()
    out.print(f"{owner} in {found.store}", style="bold", markup=False)
    out.print(f"{found.entries:,} entries, {_size(found.text_bytes)} of text; the store's files: {_size(found.store_bytes)}")
    if found.erasure_pending:
        out.print("[yellow]something forgotten is not yet erased: memgpt memory compact[/]")
    _bars("kind", found.kinds)
    _bars("since", found.months)
    _bars("characters, from", found.lengths)
    _bars("found by vectors of", {mark[:16] or "(unnamed)": n for mark, n in found.encoders.items()})
    if found.without_vector:
        said = f"{found.without_vector:,} entries are found by their words only; memgpt memory reindex --run RUN adds vectors"
        out.print(said, style="dim", markup=False)
    limits = {k: v for k, v in asdict(found.limits).items() if v and k != "on_full"}
    if limits:
        out.print(f"limits: {', '.join(f'{k} {v:,}' for k, v in limits.items())}; when full: {found.limits.on_full}")


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"


def _bars(title: str, counts: dict[str, int], most: int = 24) -> None:
    """A bar chart of counts; the latest where there are many."""
    from rich.table import Table

    if not counts:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column(title, style="dim", min_width=18)
    table.add_column("entries", justify="right")
    table.add_column("")
    highest = max(counts.values())
    for name, count in list(counts.items())[-most:]:
        table.add_row(name, f"{count:,}", "█" * max(1, round(40 * count / highest)), style=None)
    if len(counts) > most:
        table.title = f"the last {most} of {len(counts)}"
    console().print(table)


@memory.command(epilog="Example: `memgpt memory limit --max-entries 10000 --max-age-days 365 --on-full forget_oldest`")
def limit(
    max_entries: Annotated[int | None, typer.Option("--max-entries", help="0 sets no limit.", min=0, max=MAX_ID // 2)] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="Of text; 0 sets no limit.", min=0, max=MAX_ID // 2)
    ] = None,
    max_age_days: Annotated[
        float | None, typer.Option("--max-age-days", help="Since it was first said; 0: none.", min=0)
    ] = None,
    on_full: Annotated[str, typer.Option("--on-full", help="refuse, or forget_oldest.")] = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Show or set how much a namespace may hold. What is too old is erased here, at every put and when a chat begins."""
    wanted = any(v is not None for v in (max_entries, max_bytes, max_age_days)) or bool(on_full)
    memory_, owner, _ = open_memory(store, namespace, key_env, create=wanted)
    given: dict[str, Any] = {
        "max_entries": max_entries,
        "max_bytes": max_bytes,
        "max_age_days": max_age_days,
        "on_full": on_full or None,
    }
    with memory_:
        limits = memory_.limits(owner)
        if any(v is not None for v in given.values()):
            limits = replace(limits, **{k: v for k, v in given.items() if v is not None})
            memory_.set_limits(owner, limits)
        receipt = memory_.expire(owner)
    if as_json:
        print_json({**asdict(limits), "expired": asdict(receipt)})
        return
    said = ", ".join(f"{k} {v if v else 'none'}" for k, v in asdict(limits).items())
    console().print(f"{owner}: {said}", markup=False)
    if receipt.entries:
        say_receipt(receipt, f"{receipt.entries:,} entries were too old and are forgotten", as_json)


@memory.command(epilog="Example: `memgpt memory verify`")
def verify(store: StoreUrl = "", key_env: KeyEnv = "", as_json: Json = False) -> None:
    """Check the whole store: pages, texts, the index of words, vectors, codes and counts. Exits with 1 where something is wrong."""
    memory_, _, _ = open_memory(store, "-", key_env)
    with memory_, progress("verifying"):
        found = memory_.verify()
    if as_json:
        print_json({"store": memory_.url, "problems": found})
    for line in found if not as_json else ():
        console().print(line, style="red", markup=False)
    if found:
        raise typer.Exit(1)
    if not as_json:
        console().print(f"{memory_.url}: nothing wrong", markup=False)


@memory.command(epilog="Example: `memgpt memory compact`")
def compact(store: StoreUrl = "", key_env: KeyEnv = "", as_json: Json = False) -> None:
    """Finish pending erasure, make codes anew, and give space back. Takes as long as rewriting the file."""
    memory_, _, _ = open_memory(store, "-", key_env)
    with memory_, progress("compacting"):
        receipt = memory_.compact()
        logical = memory_.capabilities().erasure == "logical"
    say_receipt(receipt, f"{memory_.url} is rewritten", as_json)
    if receipt.state != "erased" and not logical:
        raise typer.Exit(1)


@memory.command(epilog="Example: `memgpt memory reindex --run mymodel --background`")
def reindex(
    run: Annotated[str, typer.Option("--run", help="The run whose model makes the vectors.")] = "",
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Keep the vectors of other models beside the new ones.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Return at once; a log tells how far it is.")] = False,
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Make vectors with another model. The old ones serve until it is done; interrupted, it goes on where it was."""
    from memgpt_cli.checkpoint import find_run
    from memgpt_cli.checkpoint.runs import RUNS_ROOT
    from memgpt_cli.config import home
    from memgpt_cli.inference.encoder import add_vectors
    from memgpt_cli.store import Receipt

    folder = find_run(run, RUNS_ROOT)
    if background:
        log = home() / "reindex.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # the address goes by the environment: it may hold a password, and everybody can read a process's arguments
        words = ["memory", "reindex", "--run", str(folder.resolve()), *(["--keep-old"] if keep_old else [])]
        given = {"MEMGPT_STORE": store, "MEMGPT_NAMESPACE": namespace, "MEMGPT_KEY_ENV": key_env}
        environment = {**os.environ, **{k: v for k, v in given.items() if v}}
        with open(log, "a") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "memgpt_cli", *words],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        console().print(f"reindexing in the background (process {process.pid}); {log} tells when it is done")
        return
    memory_, owner, encoder = open_memory(store, namespace, key_env, str(folder))
    assert encoder is not None
    with memory_:
        with progress("adding vectors") as report:
            added = add_vectors(memory_, owner, encoder, report)
        retired = Receipt("erased", 0) if keep_old else memory_.retire(owner)
    if as_json:
        done = {"namespace": owner, "added": added, "fingerprint": memory_.fingerprint}
        print_json({**done, "retired": retired.entries, "pending": retired.reason})
    else:
        late = f", not yet from the files: {retired.reason}" if retired.reason else ""
        said = f"'{owner}': {added:,} vectors of {Path(folder).name} added, {retired.entries:,} of other models erased{late}"
        console().print(said, markup=False)


@memory.command("serve-check", epilog="Example: `memgpt memory serve-check postgresql://anna@localhost/memory`")
def serve_check(
    url: Annotated[str, typer.Argument(help="The store to be used by many.")], key_env: KeyEnv = "", as_json: Json = False
) -> None:
    """Check that a store can serve: open it, write, find, edit, export and forget in a namespace of its own, and time each."""
    from memgpt_cli.store import open_store
    from memgpt_cli.store.selfcheck import try_store

    with open_store(url, "serve-check", key_env) as memory_:
        capabilities = memory_.capabilities()
        steps = try_store(memory_)
    if as_json:
        print_json({"capabilities": asdict(capabilities), "steps": [asdict(s) for s in steps]})
    else:
        out = console()
        for name, value in asdict(capabilities).items():
            out.print(f"{name:<14} {value if not isinstance(value, tuple) else ', '.join(value)}", style="dim", markup=False)
        for step in steps:
            mark = "[green]✓[/]" if step.ok else "[red]✗[/]"
            out.print(f"{mark} {step.name:<32} {step.ms:8.1f} ms  {shown(step.note)}")
    if not all(s.ok for s in steps):
        raise typer.Exit(1)
