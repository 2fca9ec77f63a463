"""memgpt memory import, export and snapshot."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import (
    Json,
    KeyEnv,
    Namespace,
    StoreUrl,
    add_missing_vectors,
    console,
    open_session,
    print_json,
    progress,
)
from memgpt_cli.cli.memory.shared import memory, open_memory, say_receipt

if TYPE_CHECKING:
    from memgpt_cli.data.preprocess import Report
    from memgpt_cli.errors import MemgptError
    from memgpt_cli.ingest.chunk import Cut
    from memgpt_cli.store import Item, Receipt, Store, Written


@memory.command("import", epilog="Example: `memgpt memory import docs/ facts.csv --run handbook-tiny --namespace handbook`")
def import_(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS",
            help="Files or folders: txt, md, json, jsonl, csv/tsv/nt triples, pdf, html; or a folder that export wrote.",
        ),
    ],
    chars: Annotated[
        int, typer.Option("--chars", help="Cut text into chunks of at most so many characters, whatever will read them.", min=0)
    ] = 0,
    overlap: Annotated[
        int,
        typer.Option(
            "--overlap",
            help="Sentences that a chunk shares with the one before; 1 where it is cut by characters, else 0.",
            min=-1,
        ),
    ] = -1,
    prune: Annotated[
        bool, typer.Option("--prune", help="Forget entries of these files that the files no longer hold.")
    ] = False,
    run: Annotated[
        str,
        typer.Option(
            "--run", help="Cut text as this run has learned to read it, and add its vectors; remembered by the namespace."
        ),
    ] = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Remember documents. Run it again after an interruption, or when files have changed: what is there stays as it is.

    Text is cut into chunks of whole sentences, as long as the entries that the run which will read them has learned from:
    --run, the run that the namespace remembers, or the newest there is.
    """
    from memgpt_cli.errors import UsageError
    from memgpt_cli.ingest.documents import find_documents
    from memgpt_cli.store import bundle

    if not all(given):
        raise UsageError("an empty path: name a file or a folder, . for this one")
    paths = [Path(path) for path in given]
    bundles = [p for p in paths if bundle.is_bundle(p)]
    files, left = find_documents([p for p in paths if p not in bundles])
    session = open_session(run) if run else None
    if session:
        session.attach(store, namespace, key_env, create=True)
        store_, owner = session.store, session.namespace
    else:
        store_, owner, _ = open_memory(store, namespace, key_env, create=True)
    with store_:
        cut, how = choose_cut(store_, owner, chars, overlap, run) if files else (None, "")
        if how and not as_json:
            console(stderr=True).print(how, style="dim", markup=False)
        done = _Import(store_, owner, cut)
        with progress("importing") as report:
            done.run(bundles, files, report)
        receipt = store_.forget(owner, done.stale) if done.stale and prune and not done.stopped else None
        if session:
            add_missing_vectors(session)
    if as_json:
        counts = {**done.counts, "files": len(files), "skipped_files": len(left), "stale": len(done.stale), "cut": how}
        print_json({**counts, "pruned": receipt.entries if receipt else 0, "problems": done.problems})
    else:
        done.say(len(files) + len(bundles), left, receipt)
    if done.stopped:
        raise done.stopped
    if done.problems:
        raise typer.Exit(1)


DEFAULT_CHARS = 600


def choose_cut(store: "Store", namespace: str, chars: int, overlap: int, run: str) -> "tuple[Cut, str]":
    """How text is cut, and in words: by --chars, or for the run that will read it."""
    from memgpt_cli.ingest.chunk import Cut

    remembered = store.settings(namespace)
    if chars:
        return Cut(chars, 1 if overlap < 0 else overlap), f"text is cut at {chars} characters"
    cut, said = _cut_for(run or str(remembered.get("run", "")), named=bool(run or remembered.get("run")))
    if cut is None:
        cut = Cut(DEFAULT_CHARS, 1)
        said = said or f"text is cut at {DEFAULT_CHARS} characters: --run RUN cuts it as a run has learned to read it"
    elif run:
        from memgpt_cli.checkpoint import find_run
        from memgpt_cli.checkpoint.runs import RUNS_ROOT

        store.set_settings(namespace, {**remembered, "run": str(find_run(run, RUNS_ROOT).resolve())})
    return (cut if overlap < 0 else replace(cut, overlap=overlap)), said


def _cut_for(run: str, named: bool) -> "tuple[Cut | None, str]":
    """The cut for a run (the newest where none is named), and what is to be said of it."""
    from memgpt_cli.checkpoint import find_run
    from memgpt_cli.checkpoint.runs import RUNS_ROOT
    from memgpt_cli.checkpoint.untrusted import describe_run
    from memgpt_cli.data.dataset import Seen
    from memgpt_cli.errors import CheckpointError
    from memgpt_cli.ingest.chunk import Cut
    from memgpt_cli.tokenizer import load_tokenizer

    try:
        folder = find_run(run, RUNS_ROOT)
        seen = Seen.of(describe_run(folder / "model").notes.get("seen"))
        tokenizer = load_tokenizer(folder / "model")
    except CheckpointError as error:
        return None, f"text is cut at {DEFAULT_CHARS} characters, since {error}" if named else ""
    if not {"chunk", "note", "turn"} & set(seen.kinds) or not seen.entry_tokens:
        return None, f"run {folder.name} has not learned from pieces of text: it is cut at {DEFAULT_CHARS} characters"
    most = max(8, seen.entry_tokens)
    newest = "" if named else ", the newest here (--run names another, --chars cuts otherwise)"
    said = f"text is cut at {most} tokens, as long as the entries that run {folder.name} has learned from{newest}"
    return Cut(most, 0, seen.typical_entry_tokens, lambda text: len(tokenizer.encode(text)), "tokens"), said


class _Import:
    """Files on their way into a namespace, and what came of them."""

    def __init__(self, store: "Store", namespace: str, cut: "Cut | None") -> None:
        self.store, self.namespace, self.cut = store, namespace, cut
        self.counts: Counter[str] = Counter(entries=0, new=0, forgotten=0)
        self.problems: list[str] = []
        self.stale: list[int] = []  # entries that came from these files and from nowhere else, and are in them no more
        self.stopped: MemgptError | None = None

    def run(self, bundles: list[Path], files: list[Path], report: "Report") -> None:
        from memgpt_cli.errors import StoreError
        from memgpt_cli.ingest.documents import source_name
        from memgpt_cli.store import bundle

        seen: dict[str, set[int]] = {}  # by file, without those that could not be read whole
        try:
            for folder in bundles:
                self._count(bundle.load(self.store, self.namespace, folder, report))
            for file in files:
                report(file.name, self.counts["entries"])
                before = len(self.problems)
                ids = self._file(file, report)
                if len(self.problems) == before:
                    seen[source_name(file)] = ids
        except StoreError as error:  # full, or its disk: what was kept before is said first
            self.stopped = StoreError(f"stopped after {self.counts['new']:,} new entries, which are kept: {error}")
            return
        for entry in self.store.all(self.namespace) if seen else ():
            sources = {o.get("source") for o in entry.provenance}
            if len(sources) == 1 and entry.id not in seen.get(str(*sources), {entry.id}):
                self.stale.append(entry.id)

    def _count(self, written: "Written") -> None:
        self.counts.update(entries=len(written.ids), new=written.new, forgotten=written.forgotten)

    def _file(self, file: Path, report: "Report") -> set[int]:
        """Puts a file's entries, 2,000 at a time, each time durably; returns their ids."""
        from memgpt_cli.errors import DataError, in_words
        from memgpt_cli.ingest.documents import read_document

        items: list[Item] = []
        ids: set[int] = set()

        def flush() -> None:
            written = self.store.put(self.namespace, items)
            ids.update(written.ids)
            self._count(written)
            items.clear()
            report(file.name, self.counts["entries"])

        assert self.cut is not None
        try:
            for found in read_document(file, self.cut):
                if isinstance(found, DataError):
                    self.problems.append(str(found))
                    continue
                items.append(found)
                if len(items) >= 2000:
                    flush()
        except OSError as error:  # this file cannot be read: the others can
            self.problems.append(in_words(error))
        flush()
        return ids

    def say(self, files: int, left: list[Path], pruned: "Receipt | None") -> None:
        out, counts = console(), self.counts
        known = counts["entries"] - counts["new"]
        out.print(
            f"{counts['new']:,} entries from {files:,} files"
            + (f", {known:,} known already" if known else "")
            + (f"; {counts['forgotten']:,} older ones forgotten to make room" if counts["forgotten"] else "")
        )
        if pruned:
            say_receipt(pruned, f"forgot {pruned.entries:,} entries that these files no longer hold", False)
        elif self.stale:
            out.print(f"[yellow]{len(self.stale):,} entries are of earlier versions of these files: --prune forgets them[/]")
        if left:
            kinds = ", ".join(sorted({p.suffix or p.name for p in left})[:8])
            out.print(f"[yellow]{len(left):,} files of other kinds left alone ({kinds})[/]")
        for problem in self.problems[:20]:
            out.print(problem, style="yellow", markup=False)
        if len(self.problems) > 20:
            out.print(f"[yellow]… and {len(self.problems) - 20:,} more (--json lists all)[/]")


@memory.command(epilog="Example: `memgpt memory export anna-backup --namespace anna`")
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Write a namespace as JSON lines and raw vectors; `memgpt memory import FOLDER` reads it back without loss."""
    from memgpt_cli.store import bundle

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
