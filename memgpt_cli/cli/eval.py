"""memgpt eval."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import (
    DATA_ROOT,
    ConfigDir,
    Json,
    KeyEnv,
    Namespace,
    OldMemory,
    Overrides,
    Run,
    StoreUrl,
    app,
    attach_corpus,
    console,
    data_folder,
    open_session,
    print_json,
    progress,
    store_named,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from memgpt_cli.config import DataConfig
    from memgpt_cli.evaluation.evaluate import Condition
    from memgpt_cli.evaluation.retrieval import Retrieval
    from memgpt_cli.inference.session import Session


@app.command("eval", epilog="Example: `memgpt eval --metric rouge --metric distinct --run dialogsum-small eval.split=valid`")
def evaluate_command(
    overrides: Overrides = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="bleu, chrf, rouge, exact, f1, distinct, perplexity, recall; repeatable."),
    ] = None,
    run: Run = "",
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="Raw files in the run's own format, instead of its test split.", exists=True),
    ] = None,
    tidy: Annotated[
        bool, typer.Option("--tidy", help="Post-process outputs before scoring (repeated spans, stray spaces).")
    ] = False,
    store: StoreUrl = "",
    memory: OldMemory = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Score a trained model, with its memory as learned, shuffled, empty, or given by an oracle; or recalled from a store."""
    from dataclasses import asdict

    from memgpt_cli.checkpoint.runs import scores_folder
    from memgpt_cli.evaluation.evaluate import save_results
    from memgpt_cli.evaluation.memories import check_memories
    from memgpt_cli.evaluation.metrics import check_metrics
    from memgpt_cli.evaluation.retrieval import save_retrieval

    check_metrics(metric or ())
    with open_session(
        run, overrides, config_dir, store_named(store, namespace, memory, key_env), namespace, key_env
    ) as session:
        config = session.config
        metrics = metric or list(config.data.metrics)
        check_metrics(metrics)
        check_memories(config.eval.memories)
        split = _split(session, file)
        of_corpus = session.recall is None and _read_corpus(session, split.parent, bool(file))
        conditions, found = _conditions(session, split, metrics, tidy, of_corpus)
        name = "+".join(f.stem for f in file) if file else config.eval.split
        name += "-store" if session.recall else ""
    assert session.folder is not None
    saved = save_results(scores_folder(session.folder), name, conditions)
    if found:
        save_retrieval(saved.parent, name, found)
    if as_json:
        scores = {c.memory: [asdict(s) for s in c.scores] for c in conditions}
        print_json(scores | ({"retrieval": [asdict(r) for r in found]} if found else {}))
        return
    out = console()
    out.print(_table(conditions, f"{session.name} on {name} of {config.data.name}"))
    if found:
        out.print(_found(found, config.eval.corpus_sizes if of_corpus else ()))
    for signature in dict.fromkeys(
        f"{s.name}: {s.signature}" for s in conditions[0].scores if not s.name.startswith("exact: ")
    ):
        out.print(f"[dim]{signature}[/]")
    out.print(f"predictions and scores: {saved.parent}")


def _read_corpus(session: "Session", data: Path, files: bool) -> bool:
    """Attaches the corpus of the data that are scored; for files of no data set, of the one that the run was trained on."""
    from memgpt_cli.checkpoint.untrusted import describe_run
    from memgpt_cli.data.dataset import read_manifest

    assert session.folder is not None
    notes, own = describe_run(session.folder / "model").notes, DATA_ROOT / session.config.data.name
    if attach_corpus(session, data):
        return True
    if files and notes.get("corpus") and attach_corpus(session, own):
        if read_manifest(own)["key"] != notes.get("data_key"):
            console(stderr=True).print(
                f"{own} has been made anew since {session.name} was trained", style="yellow", markup=False
            )
        return True
    if notes.get("corpus"):
        said = (
            f"{session.name} was trained over a corpus, which is not in {data}: nothing is read (--store names a store with it)"
        )
        console(stderr=True).print(said, style="yellow", markup=False)
    return False


def _conditions(
    session: "Session", split: Path, metrics: list[str], tidy: bool, of_corpus: bool
) -> "tuple[list[Condition], list[Retrieval]]":
    """What the model writes under each memory; and where a store is read, how it finds what is right, by its size."""
    import tempfile

    from memgpt_cli.evaluation.evaluate import evaluate
    from memgpt_cli.evaluation.recalled import of_store, write_recalled
    from memgpt_cli.evaluation.retrieval import by_size
    from memgpt_cli.inference.postprocess import drop_repeats, tidy_spaces

    config = session.config
    sizes = config.eval.corpus_sizes if of_corpus else ()  # of somebody's own store no copies are made
    postprocess = (lambda text: tidy_spaces(drop_repeats(text))) if tidy else str
    with tempfile.TemporaryDirectory() as scratch, progress("evaluating") as report:
        raw = split
        if session.recall:
            split = write_recalled(raw, Path(scratch) / "recalled", session, config.eval.max_examples, report, of_corpus)
        conditions = evaluate(
            session.model, session.tokenizer, split, metrics, config.eval, config.generate,
            lambda memory, n, total: report(f"memory={memory}, batch {n} of {total}", 0), postprocess,
            0 if session.recall else config.data.distractors,
        )  # fmt: skip
        if session.recall is None:
            return conditions, []
        return of_store(conditions, config.eval.bootstrap), by_size(
            raw, Path(scratch), session, metrics, sizes, postprocess, report
        )


def _split(session: "Session", files: list[Path] | None) -> Path:
    """The preprocessed split to score; raw files and other data are cut with the run's own tokenizer."""
    from dataclasses import replace

    from memgpt_cli.data.dataset import DATA_SET, SPLITS, read_manifest
    from memgpt_cli.errors import UsageError
    from memgpt_cli.files import slug

    if session.folder is None:
        raise UsageError(f"{session.name} is no run: memgpt train model.init_from={session.name} makes one that can be scored")
    data, split = session.config.data, "test" if files else session.config.eval.split
    own, folder = session.tokenizer.fingerprint, DATA_ROOT / data.name
    manifest = read_manifest(folder) if not files and DATA_SET.marks(folder) else None
    from memgpt_cli.checkpoint.untrusted import describe_run

    described = describe_run(session.folder / "model")
    trained = described.config.data
    if manifest is None or data != trained or manifest["tokenizer"]["fingerprint"] != own:
        data = _raw_data(session.name, data, files, manifest["config"] if manifest else None)
        tokenizer = replace(data.tokenizer, path=str((session.folder / "model").resolve()), add=())
        folder = data_folder(replace(data, tokenizer=tokenizer, name=slug(f"{data.name}-{own[:8]}")))
    elif described.notes.get("data_key", manifest["key"]) != manifest["key"]:
        said = f"{folder} has been made anew since {session.name} was trained: its test split may hold what the run has learned from"
        console(stderr=True).print(said, style="yellow", markup=False)
    if split not in SPLITS or not (folder / split).is_dir():
        found = [name for name in SPLITS if (folder / name).is_dir()]
        raise UsageError(f"eval.split={split}: {folder} has no such split, found {', '.join(found)}")
    return folder / split


def _raw_data(run: str, data: "DataConfig", files: list[Path] | None, known: dict[str, object] | None) -> "DataConfig":
    """The settings that read raw data anew, in the run's own way.

    Where raw data lie is not the run's to say (it may be somebody else's), but that of the data set of its name here.
    """
    from dataclasses import replace

    from memgpt_cli.config import CorpusConfig, DataConfig, build
    from memgpt_cli.data.sources import find_source, make_options
    from memgpt_cli.errors import UsageError
    from memgpt_cli.files import slug

    source = find_source(data.source)
    reads = source.reads_files(make_options(source, data.options))
    if files and not reads:
        raise UsageError(
            f"{run} was trained on '{data.source}', which is made, not read: say how the files are to be read, as in data.source=records"
        )
    if files:
        named: dict[str, object] = {"test": [str(f.resolve()) for f in files]}
        name = slug("eval-" + "+".join(f.stem for f in files))
        return replace(data, name=name, path="/", files=named, hold_out={}, corpus=CorpusConfig())  # the run's own is read
    if known is not None:
        raw: DataConfig = build(DataConfig, known, "data")
        corpus = data.corpus if data.corpus.path else raw.corpus
        return replace(
            data, path=data.path or raw.path, files=data.files or raw.files, corpus=corpus,
            options={**raw.options, **data.options},
        )  # fmt: skip
    if not data.path and reads:
        raise UsageError(
            f"the data set '{data.name}' that {run} was trained on is not in {DATA_ROOT}: say where its files lie "
            "(data.path=FOLDER data.files.test=FILE), or give files with --file"
        )
    return data


def _table(conditions: "list[Condition]", title: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption="95 % bootstrap intervals in brackets", caption_justify="left")
    table.add_column("metric")
    for condition in conditions:
        table.add_column(f"memory={condition.memory}\n{len(condition.predictions):,} examples", justify="right")
    names = list(dict.fromkeys(s.name for c in conditions for s in c.scores))
    for name in names:
        cells = []
        for condition in conditions:
            score = next((s for s in condition.scores if s.name == name and s.n), None)
            interval = f" [{score.low:.1f}, {score.high:.1f}]" if score and score.low is not None else ""
            cells.append(f"{score.value:.2f}{interval}" if score else "–")
        table.add_row(name, *cells)
    table.add_row("seconds", *(f"{c.seconds:.0f}" for c in conditions))
    return table


def _found(found: "list[Retrieval]", asked: "Sequence[int]") -> "Table":
    from rich.table import Table

    table = Table(title="what is right, found among all entries of the store", title_justify="left")
    for column in ("entries", "ranked by"):
        table.add_column(column, justify="right" if column == "entries" else "left")
    columns = [score.name for score in next(iter(found[0].rankings.values()))]
    for name in [*columns, *dict.fromkeys(score.name for retrieval in found for score in retrieval.written)]:
        table.add_column(name, justify="right")
    for retrieval in found:
        for by, scores in retrieval.rankings.items():
            written = [f"{score.value:.2f}" for score in retrieval.written] if by == "both" else []
            table.add_row(f"{retrieval.entries:,}", by, *(f"{score.value:.2f}" for score in scores), *written)
        table.add_section()
    table.caption = (
        f"{found[0].examples:,} examples, {found[-1].examples:,} of all entries; what is written reads those ranked by both"
    )
    shown, whole = {retrieval.entries for retrieval in found}, found[-1].entries
    if small := [f"{size:,}" for size in asked if size < whole and size not in shown]:
        table.caption += f"\nnot of {', '.join(small)}: what is right for the examples alone is more (eval.ablation_examples)"
    table.caption_justify = "left"
    return table
