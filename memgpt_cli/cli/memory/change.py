"""memgpt memory add, edit and forget."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import Json, KeyEnv, Namespace, StoreUrl, console, print_json
from memgpt_cli.cli.memory.shared import (
    MAX_ID,
    ModelRun,
    Where,
    all_found,
    entry_table,
    memory,
    open_memory,
    say_receipt,
    to_filter,
)

if TYPE_CHECKING:
    from memgpt_cli.store import Stored


@memory.command(epilog='Example: `memgpt memory add "Anna\'s cat is called Tom"`; `cat notes | memgpt memory add -`')
def add(
    text: Annotated[str, typer.Argument(help="What to remember; - reads a note from every line of standard input.")],
    kind: Annotated[str, typer.Option("--kind", help="note, fact, turn, chunk or pair; `a | b | c` is a fact.")] = "note",
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Remember a note, or a fact written as `head | relation | tail`."""
    from dataclasses import asdict

    from memgpt_cli.config import user_name
    from memgpt_cli.errors import UsageError, did_you_mean
    from memgpt_cli.ingest.text import STDIN, read_lines, stop
    from memgpt_cli.schema import KINDS, entry_from
    from memgpt_cli.store import Item
    from memgpt_cli.store.types import now

    if kind not in KINDS:
        raise UsageError(f"--kind {kind} is no kind of entry.{did_you_mean(kind, KINDS)}")
    texts = [line for _, line in read_lines(STDIN, stop) if line.strip()] if text == "-" else [text]
    if not texts:
        raise UsageError("nothing to remember: standard input is empty")
    entries = [entry_from(t, kind) for t in texts]
    memory_, owner, encoder = open_memory(store, namespace, key_env, run, create=True)
    origin = {"who": user_name(), "when": now()}
    with memory_:
        if encoder is not None:
            items = encoder.items(entries, origin)
        else:
            items = [Item(e.text, e.kind, e.meta, origin) for e in entries]
        written = memory_.put(owner, items)
    if as_json:
        print_json(asdict(written))
        return
    ids = ", ".join(map(str, written.ids[:5])) + (", …" if len(written.ids) > 5 else "")
    known = len(written.ids) - written.new
    room = f"; {written.forgotten} older ones forgotten to make room" if written.forgotten else ""
    room += f", not yet erased: {written.pending}" if written.pending else ""
    console().print(f"remembered {written.new} (id {ids})" + (f", {known} known already" if known else "") + room)


@memory.command(epilog='Example: `memgpt memory edit 12 "Anna\'s cat is called Tim" --if-version 1`')
def edit(
    id: Annotated[int, typer.Argument(help="The entry's id.", min=1, max=MAX_ID)],
    text: Annotated[str, typer.Argument(help="Its new text; - reads it from standard input.")],
    if_version: Annotated[
        int | None, typer.Option("--if-version", help="Only if nobody has changed it since this version.")
    ] = None,
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Change an entry. Its old text is erased; vectors are made anew by --run, or by `memgpt memory reindex`."""
    from memgpt_cli.data.dialogue import render_turn
    from memgpt_cli.ingest.text import STDIN, read_lines, stop
    from memgpt_cli.schema import Entry, entry_from
    from memgpt_cli.store import Item

    new = "\n".join(line for _, line in read_lines(STDIN, stop)).strip() if text == "-" else text
    memory_, owner, encoder = open_memory(store, namespace, key_env, run)
    with memory_:
        (old,) = all_found(memory_.get(owner, [id]), [id], owner)
        meta = {k: v for k, v in old.meta.items() if k not in ("triple", "terms")}
        if old.kind == "turn" and "said" in old.meta:  # a chat goes on from what was said
            speaker = str(old.meta.get("speaker", ""))
            said = new.removeprefix(f"{speaker}: ")
            entry = Entry(render_turn(speaker, said), "turn", {"said": said})
        else:
            entry = entry_from(new, "note" if old.kind == "fact" else old.kind)
        meta |= entry.meta
        vector = encoder.vectors([entry.text])[0] if encoder is not None else None
        done = memory_.edit(owner, id, Item(entry.text, entry.kind, meta, vector=vector, searchable=old.searchable), if_version)
    if as_json:
        print_json({**done.entry.as_dict(), "pending": done.pending})
    else:
        late = f"; its old text is not yet erased: {done.pending}" if done.pending else ""
        console().print(f"entry {id} is at version {done.entry.version}{late}", markup=False)


@memory.command(epilog="Example: `memgpt memory forget 12 13`; `memgpt memory forget --where source=old.md --yes`")
def forget(
    ids: Annotated[list[int] | None, typer.Argument(help="Ids of entries.", min=1, max=MAX_ID)] = None,
    where: Where = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything in this namespace, and its name.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Forget entries for good: their text, words, vectors and codes are erased from every file of the store."""
    from memgpt_cli.errors import UsageError
    from memgpt_cli.store import Receipt

    if sum((bool(ids), bool(where), everything)) != 1:
        raise UsageError("forget what? Ids, --where CONDITION, or --all: one of them")
    memory_, owner, _ = open_memory(store, namespace, key_env)
    with memory_:
        if ids:
            all_found(memory_.get(owner, ids), ids, owner)
        chosen = None if everything else list(ids or ()) or [e.id for e in memory_.all(owner, to_filter(where))]
        count = memory_.stats(owner).entries if chosen is None else len(chosen)
        if not count and not everything:
            say_receipt(Receipt("erased", 0), "nothing fits that condition: nothing forgotten", as_json)
            return
        if not yes:
            _ask(memory_.list(owner, limit=5) if chosen is None else memory_.get(owner, chosen[:5]), count, owner)
        receipt = memory_.forget(owner, everything=True) if chosen is None else memory_.forget(owner, chosen)
    say_receipt(receipt, f"forgot {receipt.entries:,} entries of '{owner}'", as_json)


def _ask(some: "list[Stored]", count: int, owner: str) -> None:
    """Shows what would go and asks; raises where nobody can answer."""
    from memgpt_cli.errors import UsageError

    out = console(stderr=True)
    if not sys.stdin.isatty():
        raise UsageError(f"{count:,} entries of '{owner}' would be forgotten for good: --yes says that you mean it")
    out.print(entry_table(some))
    if count > len(some):
        out.print(f"[dim]… and {count - len(some):,} more[/]")
    if not typer.confirm(f"Forget these {count:,} entries of '{owner}' for good?", err=True):
        raise typer.Exit(1)
