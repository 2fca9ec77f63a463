"""memgpt memory: what is added, imported, changed and forgotten."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import Json, KeyEnv, Namespace, StoreUrl, console, key_what_is_not, print_json, progress, user_name
from memgpt_cli.cli.memory import (
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
    from memgpt_cli.memory import Store, Stored


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

    from memgpt_cli.errors import UsageError, did_you_mean
    from memgpt_cli.ingest.text import STDIN, read_lines, stop
    from memgpt_cli.memory import Item
    from memgpt_cli.memory.records import now
    from memgpt_cli.schema import KINDS, entry_from

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
    console().print(f"remembered {written.new} (id {ids})" + (f", {known} known already" if known else "") + room)


@memory.command("import", epilog="Example: `memgpt memory import docs/ facts.csv --namespace handbook`")
def import_(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS",
            help="Files or folders: txt, md, json, jsonl, csv/tsv/nt triples, pdf, html; or a folder that export wrote.",
        ),
    ],
    chars: Annotated[int, typer.Option("--chars", help="Text is cut into chunks of whole sentences, this long at most.")] = 600,
    overlap: Annotated[int, typer.Option("--overlap", help="Sentences that a chunk shares with the one before.")] = 1,
    prune: Annotated[
        bool, typer.Option("--prune", help="Forget entries of these files that the files no longer hold.")
    ] = False,
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Remember documents. Run it again after an interruption, or when files have changed: what is there stays as it is."""
    from memgpt_cli.errors import MemgptError, StoreError, UsageError
    from memgpt_cli.ingest.documents import Cut, find_documents, source_name
    from memgpt_cli.memory import bundle

    if not all(given):
        raise UsageError("an empty path: name a file or a folder, . for this one")
    paths = [Path(path) for path in given]
    bundles = [p for p in paths if bundle.is_bundle(p)]
    files, left = find_documents([p for p in paths if p not in bundles])
    cut = Cut(chars, overlap)
    memory_, owner, encoder = open_memory(store, namespace, key_env, run, create=True)
    counts = {"files": len(files), "entries": 0, "new": 0, "forgotten": 0, "stale": 0, "skipped_files": len(left)}
    problems: list[str] = []
    seen: dict[str, set[int]] = {}  # by file, without those that could not be read whole
    stopped: MemgptError | None = None
    with memory_:
        with progress("importing") as report:
            try:
                for folder in bundles:
                    written = bundle.load(memory_, owner, folder, report)
                    counts["entries"] += len(written.ids)
                    counts["new"] += written.new
                    counts["forgotten"] += written.forgotten
                for file in files:
                    report(file.name, counts["entries"])
                    before = len(problems)
                    ids = _import_file(memory_, owner, file, cut, counts, problems, report)
                    if len(problems) == before:
                        seen[source_name(file)] = ids
            except StoreError as error:  # full, or its disk: what was kept before is said first
                stopped = StoreError(f"stopped after {counts['new']:,} new entries, which are kept: {error}")
                seen, prune = {}, False
            stale = _stale(memory_, owner, seen)
            counts["stale"] = len(stale)
            receipt = memory_.forget(owner, stale) if stale and prune else None
        if encoder is not None:
            key_what_is_not(memory_, owner, encoder)
    if as_json:
        print_json({**counts, "pruned": receipt.entries if receipt else 0, "problems": problems})
    else:
        out = console()
        known = counts["entries"] - counts["new"]
        out.print(
            f"{counts['new']:,} entries from {len(files) + len(bundles):,} files"
            + (f", {known:,} known already" if known else "")
            + (f"; {counts['forgotten']:,} older ones forgotten to make room" if counts["forgotten"] else "")
        )
        if receipt:
            say_receipt(receipt, f"forgot {receipt.entries:,} entries that these files no longer hold", as_json)
        elif stale:
            out.print(f"[yellow]{len(stale):,} entries are of earlier versions of these files: --prune forgets them[/]")
        if left:
            kinds = ", ".join(sorted({p.suffix or p.name for p in left})[:8])
            out.print(f"[yellow]{len(left):,} files of other kinds left alone ({kinds})[/]")
        for problem in problems[:20]:
            out.print(problem, style="yellow", markup=False)
        if len(problems) > 20:
            out.print(f"[yellow]… and {len(problems) - 20:,} more (--json lists all)[/]")
    if stopped:
        raise stopped
    if problems:
        raise typer.Exit(1)


def _import_file(
    store: "Store", owner: str, file: Path, cut: Any, counts: dict[str, int], problems: list[str], report: Any
) -> set[int]:
    """Puts a file's entries, 2,000 at a time, each time durably; returns their ids."""
    from memgpt_cli.errors import DataError, in_words
    from memgpt_cli.ingest.documents import read_document
    from memgpt_cli.memory import Item

    items: list[Item] = []
    ids: set[int] = set()

    def flush() -> None:
        written = store.put(owner, items)
        ids.update(written.ids)
        counts["entries"] += len(written.ids)
        counts["new"] += written.new
        counts["forgotten"] += written.forgotten
        items.clear()
        report(file.name, counts["entries"])

    try:
        for found in read_document(file, cut):
            if isinstance(found, DataError):
                problems.append(str(found))
                continue
            items.append(found)
            if len(items) >= 2000:
                flush()
    except OSError as error:  # this file cannot be read: the others can
        problems.append(in_words(error))
    flush()
    return ids


def _stale(store: "Store", owner: str, seen: dict[str, set[int]]) -> list[int]:
    """Entries that came from these files and from nowhere else, and are in them no more."""
    found = []
    for entry in store.all(owner) if seen else ():
        sources = {o.get("source") for o in entry.provenance}
        if len(sources) == 1 and entry.id not in seen.get(str(*sources), {entry.id}):
            found.append(entry.id)
    return found


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
    """Change an entry. Its old text is erased; keys are made anew by --run, or by `memgpt memory reindex`."""
    from memgpt_cli.data.sources.dialogue import render_turn
    from memgpt_cli.ingest.text import STDIN, read_lines, stop
    from memgpt_cli.memory import Item
    from memgpt_cli.schema import Entry, entry_from

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
        key = encoder.keys([entry.text]).numpy()[0] if encoder is not None else None
        done = memory_.edit(owner, id, Item(entry.text, entry.kind, meta, key=key, searchable=old.searchable), if_version)
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
    """Forget entries for good: their text, words, keys and codes are erased from every file of the store."""
    from memgpt_cli.errors import UsageError
    from memgpt_cli.memory import Receipt

    if sum((bool(ids), bool(where), everything)) != 1:
        raise UsageError("forget what? Ids, --where CONDITION, or --all: one of them")
    memory_, owner, _ = open_memory(store, namespace, key_env)
    with memory_:
        if ids:
            all_found(memory_.get(owner, ids), ids, owner)
        chosen = None if everything else list(ids or ()) or [e.id for e in memory_.all(owner, to_filter(where))]
        count = memory_.stats(owner)["entries"] if chosen is None else len(chosen)
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
