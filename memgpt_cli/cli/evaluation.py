"""memgpt eval and memgpt bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import (
    DATA_ROOT,
    RUNS_ROOT,
    ConfigDir,
    Json,
    KeyEnv,
    MemoryStore,
    Namespace,
    Overrides,
    Run,
    app,
    console,
    data_folder,
    open_recall,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from rich.table import Table

    from memgpt_cli.config import Config
    from memgpt_cli.evaluation.evaluate import Condition


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
    memory_store: MemoryStore = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Score a trained model, with its memory as learned, shuffled, empty, or given by an oracle; or recalled from a store."""
    import tempfile
    from dataclasses import asdict

    from memgpt_cli.checkpoint import find_run, load_model
    from memgpt_cli.config import override
    from memgpt_cli.evaluation.evaluate import check_memories, evaluate, save_results
    from memgpt_cli.evaluation.metrics import check_metrics
    from memgpt_cli.evaluation.recalled import named_by_store, write_recalled
    from memgpt_cli.generation.postprocess import drop_repeats, tidy_spaces
    from memgpt_cli.training.hardware import prepare

    folder = find_run(run, RUNS_ROOT)
    model, tokenizer, trained = load_model(folder / "model")
    config = override(trained, "eval", overrides or [], config_dir)
    metrics = metric or list(config.data.metrics)
    check_metrics(metrics)
    check_memories(config.eval.memories)
    prepare(model, config.trainer)
    split = _split(config, trained, folder, file)
    postprocess = (lambda text: tidy_spaces(drop_repeats(text))) if tidy else None
    with tempfile.TemporaryDirectory() as scratch, progress("evaluating") as report:
        if memory_store:
            recall = open_recall(memory_store, namespace, key_env, config, model, tokenizer, folder / "model")
            with recall.store:
                split = write_recalled(split, Path(scratch), recall, tokenizer, config.eval.max_examples, report)
        conditions = evaluate(
            model,
            tokenizer,
            split,
            metrics,
            config.eval,
            config.generate,
            lambda memory, n, total: report(f"memory={memory}, batch {n} of {total}", 0),
            postprocess,
        )
    name = "+".join(f.stem for f in file) if file else config.eval.split
    if memory_store:
        name, conditions = f"{name}-store", named_by_store(conditions)
    saved = save_results(folder / "eval", name, conditions)
    if as_json:
        print_json({c.memory: [asdict(s) for s in c.scores] for c in conditions})
        return
    out = console()
    out.print(_table(conditions, f"{folder.name} on {name} of {config.data.name}"))
    for signature in dict.fromkeys(f"{s.name}: {s.signature}" for s in conditions[0].scores):
        out.print(f"[dim]{signature}[/]")
    out.print(f"predictions and scores: {saved.parent}")


def _split(config: "Config", trained: "Config", run: Path, files: list[Path] | None) -> Path:
    """The preprocessed split to score; raw files and other data are cut with the run's own tokenizer.

    Where raw data lie is not the run's to say (it may be somebody else's), but that of the data set of its name here.
    """
    from dataclasses import replace

    from memgpt_cli.config import DataConfig, build
    from memgpt_cli.data.dataset import DATA_SET, read_manifest
    from memgpt_cli.data.sources import find_source
    from memgpt_cli.errors import UsageError
    from memgpt_cli.files import slug
    from memgpt_cli.tokenizer import Tokenizer

    split, data = config.eval.split, config.data
    own, folder = Tokenizer.load(run / "model").fingerprint, DATA_ROOT / data.name
    manifest = read_manifest(folder) if not files and DATA_SET.marks(folder) else None
    if manifest is None or data != trained.data or manifest["tokenizer"]["fingerprint"] != own:
        if files and not find_source(data.source).needs_file:
            raise UsageError(
                f"{run.name} was trained on '{data.source}', which is made, not read: say how the files are to be read, as in data.source=records"
            )
        if files:
            named: dict[str, object] = {"test": [str(f.resolve()) for f in files]}
            data = replace(data, name=slug("eval-" + "+".join(f.stem for f in files)), path="/", files=named, hold_out={})
            split = "test"
        elif manifest is not None:
            raw: DataConfig = build(DataConfig, manifest["config"], "data")
            data = replace(
                data, path=data.path or raw.path, files=data.files or raw.files, options={**raw.options, **data.options}
            )
        elif not data.path and find_source(data.source).needs_file:
            raise UsageError(
                f"the data set '{data.name}' that {run.name} was trained on is not in {DATA_ROOT}: say where its files lie "
                "(data.path=FOLDER data.files.test=FILE), or give files with --file"
            )
        tokenizer = replace(data.tokenizer, path=str((run / "model").resolve()), add=())
        folder = data_folder(replace(data, tokenizer=tokenizer, name=slug(f"{data.name}-{own[:8]}")))
    if not (folder / split).is_dir():
        found = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise UsageError(f"eval.split={split}: {folder} has no such split, found {', '.join(found)}")
    return folder / split


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


bench = typer.Typer(no_args_is_help=True, help="Measure speed and scale.")
app.add_typer(bench, name="bench")


@bench.command("facts", epilog="Example: `memgpt bench facts --facts 1000 --facts 100000 --run facts-tiny`")
def bench_facts(
    facts: Annotated[list[int] | None, typer.Option("--facts", help="Facts in memory; repeatable.", min=8)] = None,
    questions: Annotated[int, typer.Option("--questions", help="Questions asked at each size.", min=1)] = 500,
    top_k: Annotated[int, typer.Option("--top-k", help="Entries read for an answer.", min=1)] = 8,
    run: Run = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    as_json: Json = False,
) -> None:
    """Accuracy and time per answer against the number of facts in the store (people and values never seen in training)."""
    from dataclasses import asdict

    from rich.table import Table

    from memgpt_cli.checkpoint import find_run, load_model
    from memgpt_cli.evaluation.facts import measure_facts
    from memgpt_cli.training.hardware import prepare

    folder = find_run(run, RUNS_ROOT)
    model, tokenizer, config = load_model(folder / "model")
    prepare(model, config.trainer)
    with progress("asking") as report:
        rows = measure_facts(model, tokenizer, config, facts or [256, 1000, 10000, 100000], questions, top_k, seed, report)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(title=f"{folder.name}: {questions} questions about people never seen, top-{top_k} read", title_justify="left")
    for column in ("facts in store", "exact %", f"recall@{top_k} %", "ms per answer", "of it search ms", "indexing s"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = (
            f"{row.facts:,}",
            f"{row.exact:.1f}",
            f"{row.recall:.1f}",
            f"{row.answer_ms:.1f}",
            f"{row.search_ms:.2f}",
            f"{row.index_s:.1f}",
        )
        table.add_row(*cells)
    console().print(table)


@bench.command("memory", epilog="Example: `memgpt bench memory --rows 100000 --rows 1000000 --plot memory.png`")
def bench_memory(
    rows: Annotated[list[int] | None, typer.Option("--rows", help="Entries in the store; repeatable.", min=2000)] = None,
    dim: Annotated[int, typer.Option("--dim", help="Numbers in a key.", min=8, max=65_536)] = 384,
    queries: Annotated[int, typer.Option("--queries", help="Queries at each size.", min=64, max=256)] = 200,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", help="An .npy file of keys [N, D] of your own, instead of made-up ones.", exists=True),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Without the exact scan and FAISS HNSW beside it.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw latency and recall against size into this file.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    as_json: Json = False,
) -> None:
    """Speed, recall and memory of the store beside an exact scan and FAISS HNSW on the same keys."""
    from dataclasses import asdict

    import numpy as np
    from rich.table import Table

    from memgpt_cli.errors import UsageError
    from memgpt_cli.evaluation.store_speed import draw, measure

    if plot and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot}: expected a file that ends in .png, .svg or .pdf")
    keys = None
    if vectors is not None:
        try:
            keys = np.load(vectors, mmap_mode="r", allow_pickle=False)
            sound = keys.ndim == 2 and keys.dtype.kind == "f" and len(keys) >= 1 and keys.shape[1] >= 8
        except (ValueError, OSError, EOFError, AttributeError) as error:
            raise UsageError(f"--vectors {vectors}: no .npy file of numbers that can be read") from error
        if not sound:
            raise UsageError(
                f"--vectors {vectors}: expected floats [N, D] with D at least 8, found {keys.dtype} {list(keys.shape)}"
            )
    with progress("measuring") as report:
        result = measure(rows or [10_000, 100_000], dim, queries, keys, not alone, seed, report)
    if plot:
        draw(result, plot)
    if as_json:
        print_json(asdict(result))
        return
    table = Table(title=f"recall@8 and times of {queries} queries, one by one and 64 at once", title_justify="left")
    for column in ("index", "rows", "searched", "p50 ms", "p95 ms", "64 at once", "recall@8", "rows/s in", "open ms", "first ms", "RSS MB", "file MB"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("index", "searched") else "right")
    for m in result.rows:
        rest = (m.rows_per_s, m.open_ms, m.first_ms, m.rss_mb, m.file_mb)
        table.add_row(
            m.index, f"{m.rows:,}", m.namespace, f"{m.p50:.2f}", f"{m.p95:.2f}", f"{m.batch:.1f}", f"{m.recall:.3f}",
            *(f"{v:,.1f}" if v and v < 100 else f"{v:,.0f}" if v else "" for v in rest),
        )  # fmt: skip
    out = console()
    if not out.is_terminal:
        out.width = 132
    out.print(table)
    if result.puts:
        out.print(
            f"one durable put: {result.puts.ours_ms:.2f} ms; SQLite's least for a row of that size: {result.puts.floor_ms:.2f} ms"
        )
    if plot:
        out.print(f"drawn into {plot}")
