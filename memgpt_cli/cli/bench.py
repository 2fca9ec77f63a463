"""memgpt bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import HELP, Json, Run, app, console, open_session, print_json, progress

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from memgpt_cli.bench.store import Result
    from memgpt_cli.inference.session import Session

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


def _save(session: "Session", name: str, rows: list[dict[str, object]]) -> Path | None:
    """Leaves what was measured in the run's folder, for `memgpt bench results`; pretrained weights have none."""
    import json

    from memgpt_cli.checkpoint.runs import scores_folder
    from memgpt_cli.files import write_text

    if session.folder is None:
        return None
    saved = scores_folder(session.folder) / f"bench-{name}.json"
    saved.parent.mkdir(parents=True, exist_ok=True)
    write_text(saved, json.dumps(rows, indent=1))
    return saved


@bench.command("companion", epilog="Example: `memgpt bench companion --others 10 --others 100000 --run companion-tiny`")
def bench_companion(
    others: Annotated[
        list[int] | None, typer.Option("--others", help="Other entries in memory; repeatable.", min=0, max=10_000_000)
    ] = None,
    lives: Annotated[int, typer.Option("--lives", help="Lives that are told, asked and forgotten at each size.", min=1)] = 40,
    run: Run = "",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    as_json: Json = False,
) -> None:
    """What a companion answers of lives never seen, among many other entries; false memories, and leaks after forgetting."""
    from dataclasses import asdict

    from rich.table import Table

    from memgpt_cli.bench.companion import measure_companion

    session = open_session(run, ["generate.beams=1"])
    with progress("asking") as report:
        rows = measure_companion(session, others or [10, 1000, 100_000], lives, seed, report)
    saved = _save(session, "companion", [asdict(row) for row in rows])
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("", title=f"{session.name}: {lives} lives never seen, among other entries", title_justify="left")
    for row in rows:
        table.add_column(f"{row.others:,} others", justify="right")
    for ability in dict.fromkeys(name for row in rows for name in row.exact):
        table.add_row(f"exact % {ability}", *(f"{row.exact.get(ability, float('nan')):.1f}" for row in rows))
    table.add_row("false memories %", *(f"{row.false_memories:.1f}" for row in rows))
    table.add_row("leaks after forgetting", *(f"{row.leaks} of {row.after_forgetting}" for row in rows))
    table.add_row("told by chat: exact %", *(f"{row.conversation:.1f}" for row in rows))
    table.add_row("ms per answer", *(f"{row.answer_ms:.0f}" for row in rows))
    console().print(table)
    console().print(
        f"[dim]told by chat: memory is what the replies to the messages confirmed · +: in wordings that training never held · {saved}[/]"
    )


@bench.command("conversations", epilog="Example: `memgpt bench conversations mine.jsonl --wrong --run companion-tiny`")
def bench_conversations(
    file: Annotated[
        Path,
        typer.Argument(
            help='Conversations, one a line: {"messages": [{"say": …, "kind": …, "expect": [texts of the reply], "keeps": true}, …]}.'
        ),
    ],
    run: Run = "",
    wrong: Annotated[bool, typer.Option("--wrong", help="Print the messages that were answered wrong.")] = False,
    as_json: Json = False,
) -> None:
    """Conversations of your own, held with a run: how many replies say what they should, and keep what they should."""
    from dataclasses import asdict

    from rich.markup import escape
    from rich.table import Table

    from memgpt_cli.bench.conversations import hold_conversations, read_conversations

    conversations = read_conversations(file)
    session = open_session(run, ["generate.beams=1"])
    with progress("talking") as report:
        held = hold_conversations(session, conversations, report)
    asked = held.asked | {"all": sum(held.asked.values())}
    right = held.right | {"all": sum(held.right.values())}
    shares = {kind: 100 * right[kind] / max(1, count) for kind, count in asked.items()}
    _save(session, f"conversations-{file.stem}", [{"messages": asked["all"], "right": shares}])
    if as_json:
        print_json(asdict(held))
        return
    table = Table(title=f"{session.name}: {len(conversations)} conversations of {file.name}", title_justify="left")
    for column in ("messages", "asked", "right %"):
        table.add_column(column, justify="left" if column == "messages" else "right")
    for kind, share in shares.items():
        table.add_row(escape(kind), f"{asked[kind]:,}", f"{share:.1f}")
    console().print(table)
    for one in held.wrong if wrong else []:
        expected = f" [dim](expected: {escape(', '.join(one.expect))})[/]" if one.expect else ""
        console().print(f"[dim]{escape(one.kind)}[/]  {escape(one.say)}\n  → {escape(one.reply)}{expected}")


@bench.command("results", epilog="Example: `memgpt bench results demo companion-tiny --output docs/results.md`")
def bench_results(
    runs: Annotated[list[str], typer.Argument(help="Runs that were scored by memgpt eval or memgpt bench.", metavar="RUN...")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the page here instead of printing it.")] = None,
) -> None:
    """What runs scored, on one page of Markdown: made from the JSON that eval and bench left in their folders."""
    from memgpt_cli.bench.results import results_page
    from memgpt_cli.checkpoint.runs import RUNS_ROOT, find_run
    from memgpt_cli.files import write_text

    page = results_page([find_run(run, RUNS_ROOT) for run in runs], f"memgpt bench results {' '.join(runs)}")
    if output is None:
        print(page, end="")
    else:
        write_text(output, page)
        console().print(f"written: {output}")
