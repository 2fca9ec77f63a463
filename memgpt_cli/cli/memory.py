"""memgpt memory: what is remembered, searched, listed, shown and written out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import RUNS_ROOT, Json, KeyEnv, Namespace, StoreUrl, app, console, print_json, progress, user_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memgpt_cli.generation.recall import Encoder
    from memgpt_cli.memory import Receipt, Store, Stored

memory = typer.Typer(
    no_args_is_help=True,
    help="A memory that lasts: add, search, edit, forget, export. A model is not needed; with --run it is searched by meaning too.",
)
app.add_typer(memory, name="memory")

MAX_ID = (1 << 63) - 1
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="Only entries with kind=…, text~WORDS, source=…, who=…, session=…, since=DATE, before=DATE; repeatable."
    ),
]
ModelRun = Annotated[
    str, typer.Option("--run", help="A run whose model makes keys, so that meaning is searched; words only where empty.")
]


def open_memory(
    url: str, namespace: str, key_env: str, run: str = "", create: bool = False
) -> "tuple[Store, str, Encoder | None]":
    """The store, whose memory it is, and the encoder where a run is named. Only what adds to a store makes one."""
    from memgpt_cli.memory import open_store

    owner = namespace or user_name()
    if not run:
        return open_store(url, "", key_env, create), owner, None
    from memgpt_cli.checkpoint import find_run, fingerprint, load_model
    from memgpt_cli.generation.recall import Encoder
    from memgpt_cli.training.hardware import prepare

    folder = find_run(run, RUNS_ROOT)
    model, tokenizer, config = load_model(folder / "model")
    prepare(model, config.trainer)
    return open_store(url, fingerprint(folder / "model"), key_env, create), owner, Encoder(model, tokenizer)


def to_filter(where: list[str] | None) -> Any:
    from memgpt_cli.memory import Filter

    return Filter.parse(where) if where else None


def shown(text: str) -> str:
    """Text from anywhere as it may stand in a table: no markup, and as wide as it will be."""
    from rich.markup import escape

    from memgpt_cli.cli.terminal import visible

    return escape(visible(text))


def _origin(entry: "Stored") -> str:
    first = entry.provenance[0] if entry.provenance else {}
    place = (
        f"{first['source']}:{first.get('line') or 'p. ' + str(first.get('page', '?'))}"
        if "source" in first
        else first.get("who", "")
    )
    return str(place) + (f" (and {entry.count - 1} more)" if entry.count > 1 else "")


def entry_table(entries: "Iterable[Stored]", scores: "Sequence[float] | None" = None) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("id", justify="right", style="bold")
    if scores is not None:
        table.add_column("score", justify="right")
    for name in ("kind", "entry", "from", "since"):
        table.add_column(name, style="" if name == "entry" else "dim", no_wrap=name == "since")
    for n, entry in enumerate(entries):
        score = [] if scores is None else [f"{scores[n]:.3f}"]
        row = (entry.kind, entry.text, _origin(entry), entry.created[:10])
        table.add_row(str(entry.id), *score, *map(shown, row))
    return table


def say_receipt(receipt: "Receipt", what: str, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(receipt))
    elif receipt.state == "erased":
        console().print(f"{what}; no byte of it is left in the store", markup=False)
    else:
        console().print(f"{what}, not yet erased: {receipt.reason}", style="yellow", markup=False)


@memory.command(epilog='Example: `memgpt memory search "what is the cat called" -k 3`')
def search(
    query: Annotated[str, typer.Argument(help="Words, or a question.")],
    k: Annotated[int, typer.Option("-k", help="How many entries.", min=1, max=100_000)] = 8,
    where: Where = None,
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Find entries by their words; with --run by their meaning too, the two rankings fused."""
    from memgpt_cli.errors import UsageError
    from memgpt_cli.schema import unfit

    if what := unfit(query):
        raise UsageError(f"the query holds {what}")
    memory_, owner, encoder = open_memory(store, namespace, key_env, run)
    with memory_:
        keys = encoder.queries([query]).numpy() if encoder is not None else None
        (hits,) = memory_.search(owner, keys, [query], k, to_filter(where))
    if as_json:
        for h in hits:
            print_json({**h.entry.as_dict(), "score": h.score, "similarity": h.similarity, "words": h.words})
    elif hits:
        console().print(entry_table([h.entry for h in hits], [h.score for h in hits]))
    else:
        console().print(f"nothing found for '{query}' in the memory of '{owner}'", markup=False)


@memory.command("list", epilog="Example: `memgpt memory list --where kind=fact --limit 20`")
def list_(
    where: Where = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many; 0 for all.", min=0, max=MAX_ID)] = 50,
    after: Annotated[int, typer.Option("--after", help="Go on after this id.", min=0, max=MAX_ID)] = 0,
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """List entries in the order they came."""
    memory_, owner, _ = open_memory(store, namespace, key_env)
    shown = 0
    with memory_:
        while True:
            size = min(500, limit - shown) if limit else 500
            page = memory_.list(owner, to_filter(where), after, size) if size else []
            if as_json:
                for entry in page:
                    print_json(entry.as_dict())
            elif page:
                console().print(entry_table(page))
            if not page:
                break
            shown, after = shown + len(page), page[-1].id
        more = bool(memory_.list(owner, to_filter(where), after, 1))
    if not as_json and not shown:
        console().print(f"the memory of '{owner}' holds nothing" + (" like that" if where else ""), markup=False)
    elif not as_json and more:
        console().print(f"[dim]more: --after {after}[/]")


@memory.command(epilog="Example: `memgpt memory show 12`")
def show(
    ids: Annotated[list[int], typer.Argument(help="Ids of entries.", min=1, max=MAX_ID)],
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Show entries whole: text, kind, every origin, version, and which models have keys of it."""

    memory_, owner, _ = open_memory(store, namespace, key_env)
    with memory_:
        entries = all_found(memory_.get(owner, ids), ids, owner)
        keys = memory_.keys(owner, ids)
    for entry in entries:
        encoders = [mark for mark, own in keys.items() if entry.id in own]
        if as_json:
            print_json({**entry.as_dict(), "encoders": encoders})
            continue
        out = console()
        when = shown(f"{entry.kind}, version {entry.version}, since {entry.created}, changed {entry.updated}")
        out.print(f"[bold]{entry.id}[/]  {when}")
        out.print(shown(entry.text))
        for origin in entry.provenance:
            out.print("[dim]from  [/]" + shown(", ".join(f"{k} {v}" for k, v in origin.items())))
        if entry.meta:
            out.print("[dim]meta  [/]" + shown(json.dumps(entry.meta, ensure_ascii=False)))
        searched = f"keys of {', '.join(encoders)}" if encoders else "by its words"
        out.print("[dim]found [/]" + shown(searched if entry.searchable else "never: it only repeats what was recalled"))


def all_found(entries: "list[Stored]", ids: "Sequence[int]", owner: str) -> "list[Stored]":
    from memgpt_cli.errors import StoreError

    missing = sorted(set(ids) - {e.id for e in entries})
    if missing:
        raise StoreError(
            f"no entry {', '.join(map(str, missing))} in the memory of '{owner}': `memgpt memory list` shows the ids"
        )
    return entries


@memory.command(epilog="Example: `memgpt memory export anna-backup --namespace anna`")
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Write a namespace as JSON lines and raw keys; `memgpt memory import FOLDER` reads it back without loss."""
    from memgpt_cli.memory import bundle

    memory_, owner, _ = open_memory(store, namespace, key_env)
    with memory_, progress("exporting") as report:
        count = bundle.export(memory_, owner, folder, report)
    if as_json:
        print_json({"folder": str(folder), "entries": count})
    else:
        console().print(
            f"{count:,} entries of '{owner}' are in {folder}, in plain text: what is forgotten later stays there", markup=False
        )


@memory.command(epilog="Example: `memgpt memory snapshot copy.sqlite`")
def snapshot(
    file: Annotated[Path, typer.Argument(help="A new file.")], store: StoreUrl = "", key_env: KeyEnv = "", as_json: Json = False
) -> None:
    """Copy the whole store, all namespaces, as it is at one moment, while others go on writing."""
    memory_, _, _ = open_memory(store, "-", key_env)
    with memory_:
        memory_.snapshot(file)
    if as_json:
        print_json({"snapshot": str(file)})
    else:
        console().print(f"the store is copied to {file}; what is forgotten later stays in the copy", markup=False)
