"""memgpt bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import HELP, Json, Run, app, console, open_session, print_json, progress

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from memgpt_cli.bench.store import Result

bench = typer.Typer(no_args_is_help=True, context_settings=HELP, help="Measure speed and scale.")
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

    from memgpt_cli.bench.facts import measure_facts

    session = open_session(run, [f"store.recall={top_k}", "generate.max_tokens=24", "generate.beams=1"])
    with progress("asking") as report:
        rows = measure_facts(session, facts or [256, 1000, 10000, 100000], questions, seed, report)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(
        title=f"{session.name}: {questions} questions about people never seen, top-{top_k} read", title_justify="left"
    )
    for column in ("facts in store", "exact %", f"recall@{top_k} %", "ms per answer", "of it search ms", "indexing s"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (
            f"{row.exact:.1f}",
            f"{row.recall:.1f}",
            f"{row.answer_ms:.1f}",
            f"{row.search_ms:.2f}",
            f"{row.index_s:.1f}",
        )
        table.add_row(f"{row.facts:,}", *numbers)
    console().print(table)


@bench.command("memory", epilog="Example: `memgpt bench memory --rows 100000 --rows 1000000 --plot memory.png`")
def bench_memory(
    rows: Annotated[list[int] | None, typer.Option("--rows", help="Entries in the store; repeatable.", min=2000)] = None,
    dim: Annotated[int, typer.Option("--dim", help="Numbers in a vector.", min=8, max=65_536)] = 384,
    queries: Annotated[int, typer.Option("--queries", help="Queries at each size.", min=64, max=256)] = 200,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", help="An .npy file of vectors [N, D] of your own, instead of made-up ones.", exists=True),
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Without the exact scan and FAISS HNSW beside it.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw latency and recall against size into this file.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    as_json: Json = False,
) -> None:
    """Speed, recall and memory of the store beside an exact scan and FAISS HNSW on the same vectors."""
    from dataclasses import asdict

    from memgpt_cli.bench.store import draw, measure
    from memgpt_cli.errors import UsageError

    if plot and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {plot}: expected a file that ends in .png, .svg or .pdf")
    given = _vectors(vectors) if vectors else None
    with progress("measuring") as report:
        result = measure(rows or [10_000, 100_000], dim, queries, given, not alone, seed, report)
    if plot:
        draw(result, plot)
    if as_json:
        print_json(asdict(result))
        return
    out = console()
    if not out.is_terminal:
        out.width = 132
    out.print(_speeds(result, queries))
    if result.puts:
        out.print(
            f"one durable put: {result.puts.ours_ms:.2f} ms; SQLite's least for a row of that size: {result.puts.floor_ms:.2f} ms"
        )
    if plot:
        out.print(f"drawn into {plot}")


def _vectors(path: Path) -> "np.ndarray":
    """Vectors of the user's; raises UsageError where the file holds none."""
    import numpy as np

    from memgpt_cli.errors import UsageError

    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        sound = found.ndim == 2 and found.dtype.kind == "f" and len(found) >= 1 and found.shape[1] >= 8
    except (ValueError, OSError, EOFError, AttributeError) as error:
        raise UsageError(f"--vectors {path}: no .npy file of numbers that can be read") from error
    if not sound:
        raise UsageError(f"--vectors {path}: expected floats [N, D] with D at least 8, found {found.dtype} {list(found.shape)}")
    return found


def _speeds(result: "Result", queries: int) -> "Table":
    from rich.table import Table

    table = Table(title=f"recall@8 and times of {queries} queries, one by one and 64 at once", title_justify="left")
    for column in ("index", "rows", "searched", "p50 ms", "p95 ms", "64 at once", "recall@8", "rows/s in", "open ms", "first ms", "RSS MB", "file MB"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("index", "searched") else "right")
    for m in result.rows:
        rest = (m.rows_per_s, m.open_ms, m.first_ms, m.rss_mb, m.file_mb)
        table.add_row(
            m.index, f"{m.rows:,}", m.namespace, f"{m.p50:.2f}", f"{m.p95:.2f}", f"{m.batch:.1f}", f"{m.recall:.3f}",
            *(f"{v:,.1f}" if v and v < 100 else f"{v:,.0f}" if v else "" for v in rest),
        )  # fmt: skip
    return table


@bench.command("preprocess", epilog="Example: `memgpt bench preprocess --mb 10 --mb 1000`")
def bench_preprocess(
    mb: Annotated[list[int] | None, typer.Option("--mb", help="Megabytes of records to read; repeatable.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Time and memory of preprocessing against the size of the data: the memory should not grow with it."""
    from dataclasses import asdict

    from rich.table import Table

    from memgpt_cli.bench.preprocess import measure_preprocess

    with progress("measuring") as report:
        rows = measure_preprocess(mb or [10, 100], report)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(title="preprocessing records, each size in a process of its own", title_justify="left")
    for column in ("MB read", "episodes", "seconds", "MB/s", "peak MB", "MB written"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (f"{row.seconds:.1f}", f"{row.read_mb / row.seconds:.2f}", f"{row.peak_mb:,.0f}", f"{row.written_mb:,.0f}")
        table.add_row(f"{row.read_mb:,.0f}", f"{row.episodes:,}", *numbers)
    console().print(table)
