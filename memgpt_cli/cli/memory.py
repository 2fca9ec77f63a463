"""memgpt memory: what is remembered, added, found, shown, changed and forgotten."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import RUNS_ROOT, Json, KeyEnv, Namespace, StoreUrl, app, console, progress, user_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memgpt_cli.generation.recall import Encoder
    from memgpt_cli.memory import Receipt, Store, Stored

memory = typer.Typer(
    no_args_is_help=True,
    help="A memory that lasts: add, search, edit, forget, export. A model is not needed; with --run it is searched by meaning too.",
)
app.add_typer(memory, name="memory")

Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="Only entries with kind=…, text~WORDS, source=…, who=…, session=…, since=DATE, before=DATE; repeatable."
    ),
]
ModelRun = Annotated[
    str, typer.Option("--run", help="A run whose model makes keys, so that meaning is searched; words only where empty.")
]


def _open(url: str, namespace: str, key_env: str, run: str = "") -> "tuple[Store, str, Encoder | None]":
    """The store, whose memory it is, and the encoder where a run is named."""
    from memgpt_cli.memory import open_store

    owner = namespace or user_name()
    if not run:
        return open_store(url, "", key_env), owner, None
    from memgpt_cli.checkpoint import find_run, fingerprint, load_model
    from memgpt_cli.generation.recall import Encoder
    from memgpt_cli.training.hardware import prepare

    folder = find_run(run, RUNS_ROOT)
    model, tokenizer, config = load_model(folder / "model")
    prepare(model, config.trainer)
    return open_store(url, fingerprint(folder / "model"), key_env), owner, Encoder(model, tokenizer)


def _filter(where: list[str] | None) -> Any:
    from memgpt_cli.memory import Filter

    return Filter.parse(where) if where else None


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _origin(entry: "Stored") -> str:
    first = entry.provenance[0] if entry.provenance else {}
    place = (
        f"{first['source']}:{first.get('line') or 'p. ' + str(first.get('page', '?'))}"
        if "source" in first
        else first.get("who", "")
    )
    return str(place) + (f" (and {entry.count - 1} more)" if entry.count > 1 else "")


def _table(entries: "Iterable[Stored]", scores: "Sequence[float] | None" = None) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("id", justify="right", style="bold")
    if scores is not None:
        table.add_column("score", justify="right")
    for name in ("kind", "entry", "from", "since"):
        table.add_column(name, style="" if name == "entry" else "dim", no_wrap=name == "since")
    for n, entry in enumerate(entries):
        score = [] if scores is None else [f"{scores[n]:.3f}"]
        table.add_row(str(entry.id), *score, entry.kind, escape(entry.text), escape(_origin(entry)), entry.created[:10])
    return table


def _say(receipt: "Receipt", what: str, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        _print_json(asdict(receipt))
    elif receipt.state == "erased":
        console().print(f"{what}; no byte of it is left in the store")
    else:
        console().print(f"[yellow]{what}, not yet erased: {receipt.reason}[/]")


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
    from memgpt_cli.memory import Item
    from memgpt_cli.memory.records import now
    from memgpt_cli.schema import KINDS, entry_from

    if kind not in KINDS:
        raise UsageError(f"--kind {kind} is no kind of entry.{did_you_mean(kind, KINDS)}")
    texts = [line.rstrip("\n") for line in sys.stdin if line.strip()] if text == "-" else [text]
    entries = [entry_from(t, kind) for t in texts]
    memory_, owner, encoder = _open(store, namespace, key_env, run)
    origin = {"who": user_name(), "when": now()}
    with memory_:
        if encoder is not None:
            items = encoder.items(entries, origin)
        else:
            items = [Item(e.text, e.kind, e.meta, origin) for e in entries]
        written = memory_.put(owner, items)
    if as_json:
        _print_json(asdict(written))
        return
    ids = ", ".join(map(str, written.ids[:5])) + (", …" if len(written.ids) > 5 else "")
    known = len(written.ids) - written.new
    room = f"; {written.forgotten} older ones forgotten to make room" if written.forgotten else ""
    console().print(f"remembered {written.new} (id {ids})" + (f", {known} known already" if known else "") + room)


@memory.command("import", epilog="Example: `memgpt memory import docs/ facts.csv --namespace handbook`")
def import_(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files or folders: txt, md, jsonl, csv/tsv/nt triples, pdf, html; or a folder that export wrote."),
    ],
    chars: Annotated[int, typer.Option("--chars", help="Text is cut into chunks of whole sentences, this long at most.")] = 600,
    overlap: Annotated[int, typer.Option("--overlap", help="Sentences that a chunk shares with the one before.")] = 1,
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Remember documents. Run it again after an interruption, or when files have changed: what is there stays as it is."""
    from memgpt_cli.data.documents import Cut, find_documents
    from memgpt_cli.memory import bundle

    bundles = [p for p in paths if bundle.is_bundle(p)]
    files, left = find_documents([p for p in paths if p not in bundles])
    cut = Cut(chars, overlap)
    memory_, owner, encoder = _open(store, namespace, key_env, run)
    counts = {"files": len(files), "entries": 0, "new": 0, "forgotten": 0, "skipped_files": len(left)}
    problems: list[str] = []
    with memory_:
        with progress("importing") as report:
            for folder in bundles:
                written = bundle.load(memory_, owner, folder, report)
                counts["entries"] += len(written.ids)
                counts["new"] += written.new
            for file in files:
                report(file.name, counts["entries"])
                _import_file(memory_, owner, file, cut, counts, problems, report)
        if encoder is not None:
            from memgpt_cli.cli.app import key_what_is_not

            key_what_is_not(memory_, owner, encoder)
    if as_json:
        _print_json({**counts, "problems": problems})
    else:
        out = console()
        known = counts["entries"] - counts["new"]
        out.print(
            f"{counts['new']:,} entries from {len(files) + len(bundles):,} files"
            + (f", {known:,} known already" if known else "")
            + (f"; {counts['forgotten']:,} older ones forgotten to make room" if counts["forgotten"] else "")
        )
        if left:
            kinds = ", ".join(sorted({p.suffix or p.name for p in left})[:8])
            out.print(f"[yellow]{len(left):,} files of other kinds left alone ({kinds})[/]")
        for problem in problems[:20]:
            out.print(problem, style="yellow", markup=False)
        if len(problems) > 20:
            out.print(f"[yellow]… and {len(problems) - 20:,} more (--json lists all)[/]")
    if problems:
        raise typer.Exit(1)


def _import_file(
    store: "Store", owner: str, file: Path, cut: Any, counts: dict[str, int], problems: list[str], report: Any
) -> None:
    """Puts a file's entries, 2,000 at a time, each time durably."""
    from memgpt_cli.data.documents import read_document
    from memgpt_cli.errors import DataError
    from memgpt_cli.memory import Item

    items: list[Item] = []

    def flush() -> None:
        written = store.put(owner, items)
        counts["entries"] += len(written.ids)
        counts["new"] += written.new
        counts["forgotten"] += written.forgotten
        items.clear()
        report(file.name, counts["entries"])

    for found in read_document(file, cut):
        if isinstance(found, DataError):
            problems.append(str(found))
            continue
        items.append(found)
        if len(items) >= 2000:
            flush()
    flush()


@memory.command(epilog='Example: `memgpt memory search "what is the cat called" -k 3`')
def search(
    query: Annotated[str, typer.Argument(help="Words, or a question.")],
    k: Annotated[int, typer.Option("-k", help="How many entries.", min=1)] = 8,
    where: Where = None,
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Find entries by their words; with --run by their meaning too, the two rankings fused."""
    memory_, owner, encoder = _open(store, namespace, key_env, run)
    with memory_:
        keys = encoder.queries([query]).numpy() if encoder is not None else None
        (hits,) = memory_.search(owner, keys, [query], k, _filter(where))
    if as_json:
        for h in hits:
            _print_json({**h.entry.as_dict(), "score": h.score, "similarity": h.similarity, "words": h.words})
    elif hits:
        console().print(_table([h.entry for h in hits], [h.score for h in hits]))
    else:
        console().print(f"nothing found for '{query}' in the memory of '{owner}'", markup=False)


@memory.command("list", epilog="Example: `memgpt memory list --where kind=fact --limit 20`")
def list_(
    where: Where = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many; 0 for all.", min=0)] = 50,
    after: Annotated[int, typer.Option("--after", help="Go on after this id.")] = 0,
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """List entries in the order they came."""
    memory_, owner, _ = _open(store, namespace, key_env)
    shown = 0
    with memory_:
        while True:
            size = min(500, limit - shown) if limit else 500
            page = memory_.list(owner, _filter(where), after, size) if size else []
            if as_json:
                for entry in page:
                    _print_json(entry.as_dict())
            elif page:
                console().print(_table(page))
            if not page:
                break
            shown, after = shown + len(page), page[-1].id
        more = bool(memory_.list(owner, _filter(where), after, 1))
    if not as_json and not shown:
        console().print(f"the memory of '{owner}' holds nothing" + (" like that" if where else ""), markup=False)
    elif not as_json and more:
        console().print(f"[dim]more: --after {after}[/]")


@memory.command(epilog="Example: `memgpt memory show 12`")
def show(
    ids: Annotated[list[int], typer.Argument(help="Ids of entries.")],
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Show entries whole: text, kind, every origin, version, and which models have keys of it."""
    from rich.markup import escape

    memory_, owner, _ = _open(store, namespace, key_env)
    with memory_:
        entries = _found(memory_.get(owner, ids), ids, owner)
        keys = memory_.keys(owner, ids)
    for entry in entries:
        encoders = [mark for mark, own in keys.items() if entry.id in own]
        if as_json:
            _print_json({**entry.as_dict(), "encoders": encoders})
            continue
        out = console()
        out.print(f"[bold]{entry.id}[/]  {entry.kind}, version {entry.version}, since {entry.created}, changed {entry.updated}")
        out.print(escape(entry.text))
        for origin in entry.provenance:
            out.print("[dim]from  [/]" + escape(", ".join(f"{k} {v}" for k, v in origin.items())))
        if entry.meta:
            out.print("[dim]meta  [/]" + escape(json.dumps(entry.meta, ensure_ascii=False)))
        searched = f"keys of {', '.join(encoders)}" if encoders else "by its words"
        out.print("[dim]found [/]" + escape(searched if entry.searchable else "never: it only repeats what was recalled"))


def _found(entries: "list[Stored]", ids: "Sequence[int]", owner: str) -> "list[Stored]":
    from memgpt_cli.errors import StoreError

    missing = sorted(set(ids) - {e.id for e in entries})
    if missing:
        raise StoreError(
            f"no entry {', '.join(map(str, missing))} in the memory of '{owner}': `memgpt memory list` shows the ids"
        )
    return entries


@memory.command(epilog='Example: `memgpt memory edit 12 "Anna\'s cat is called Tim" --if-version 1`')
def edit(
    id: Annotated[int, typer.Argument(help="The entry's id.")],
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
    from memgpt_cli.memory import Item
    from memgpt_cli.schema import entry_from

    new = sys.stdin.read().strip() if text == "-" else text
    memory_, owner, encoder = _open(store, namespace, key_env, run)
    with memory_:
        (old,) = _found(memory_.get(owner, [id]), [id], owner)
        entry = entry_from(new, "note" if old.kind == "fact" else old.kind)
        meta = {**{k: v for k, v in old.meta.items() if k not in ("triple", "terms", "said")}, **entry.meta}
        key = encoder.keys([entry.text]).numpy()[0] if encoder is not None else None
        done = memory_.edit(owner, id, Item(entry.text, entry.kind, meta, key=key, searchable=old.searchable), if_version)
    if as_json:
        _print_json(done.as_dict())
    else:
        console().print(f"entry {id} is at version {done.version}")


@memory.command(epilog="Example: `memgpt memory forget 12 13`; `memgpt memory forget --where source=old.md --yes`")
def forget(
    ids: Annotated[list[int] | None, typer.Argument(help="Ids of entries.")] = None,
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

    if sum((bool(ids), bool(where), everything)) != 1:
        raise UsageError("forget what? Ids, --where CONDITION, or --all: one of them")
    memory_, owner, _ = _open(store, namespace, key_env)
    with memory_:
        if ids:
            _found(memory_.get(owner, ids), ids, owner)
        chosen = None if everything else list(ids or ()) or [e.id for e in memory_.all(owner, _filter(where))]
        count = memory_.stats(owner)["entries"] if chosen is None else len(chosen)
        if not count and not everything:
            console(stderr=as_json).print("nothing fits that condition: nothing forgotten")
            return
        if not yes:
            _ask(memory_.list(owner, limit=5) if chosen is None else memory_.get(owner, chosen[:5]), count, owner)
        receipt = memory_.forget(owner, everything=True) if chosen is None else memory_.forget(owner, chosen)
    _say(receipt, f"forgot {receipt.entries:,} entries of '{owner}'", as_json)


def _ask(some: "list[Stored]", count: int, owner: str) -> None:
    """Shows what would go and asks; raises where nobody can answer."""
    from memgpt_cli.errors import UsageError

    out = console(stderr=True)
    if not sys.stdin.isatty():
        raise UsageError(f"{count:,} entries of '{owner}' would be forgotten for good: --yes says that you mean it")
    out.print(_table(some))
    if count > len(some):
        out.print(f"[dim]… and {count - len(some):,} more[/]")
    if not typer.confirm(f"Forget these {count:,} entries of '{owner}' for good?"):
        raise typer.Exit(1)


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

    memory_, owner, _ = _open(store, namespace, key_env)
    with memory_, progress("exporting") as report:
        count = bundle.export(memory_, owner, folder, report)
    if as_json:
        _print_json({"folder": str(folder), "entries": count})
    else:
        console().print(f"{count:,} entries of '{owner}' are in {folder}, in plain text: what is forgotten later stays there")


@memory.command(epilog="Example: `memgpt memory snapshot copy.sqlite`")
def snapshot(file: Annotated[Path, typer.Argument(help="A new file.")], store: StoreUrl = "", key_env: KeyEnv = "") -> None:
    """Copy the whole store, all namespaces, as it is at one moment, while others go on writing."""
    memory_, _, _ = _open(store, "-", key_env)
    with memory_:
        memory_.snapshot(file)
    console().print(f"the store is copied to {file}; what is forgotten later stays in the copy")
