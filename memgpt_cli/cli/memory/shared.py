"""memgpt memory: what its commands share; each is in a file beside this one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import HELP, app, console, open_session, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memgpt_cli.inference.encoder import Encoder
    from memgpt_cli.store import Receipt, Store, Stored

memory = typer.Typer(
    no_args_is_help=True,
    context_settings=HELP,
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
    str, typer.Option("--run", help="A run whose model makes vectors, so that meaning is searched; words only where empty.")
]


def open_memory(
    url: str, namespace: str, key_env: str, run: str = "", create: bool = False
) -> "tuple[Store, str, Encoder | None]":
    """The store, whose memory it is, and the encoder where a run is named. Only what adds to a store makes one."""
    from memgpt_cli.config import user_name
    from memgpt_cli.store import open_store

    if not run:
        return open_store(url, "", key_env, create), namespace or user_name(), None
    session = open_session(run)
    session.attach(url, namespace, key_env, create)
    return session.store, session.namespace, session.encoder


def to_filter(where: list[str] | None) -> Any:
    from memgpt_cli.store import Filter

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


def all_found(entries: "list[Stored]", ids: "Sequence[int]", owner: str) -> "list[Stored]":
    from memgpt_cli.errors import StoreError

    missing = sorted(set(ids) - {e.id for e in entries})
    if missing:
        raise StoreError(
            f"no entry {', '.join(map(str, missing))} in the memory of '{owner}': `memgpt memory list` shows the ids"
        )
    return entries
