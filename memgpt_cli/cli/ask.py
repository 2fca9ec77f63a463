"""memgpt ask."""

from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import (
    ConfigDir,
    Json,
    KeyEnv,
    Namespace,
    Overrides,
    Run,
    StoreUrl,
    app,
    console,
    open_session,
    print_json,
)

if TYPE_CHECKING:
    from memgpt_cli.inference.session import Reply, Session


@app.command(epilog='Example: `memgpt ask "where is the kettle of room K17 ?" --store kb.sqlite`')
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    overrides: Overrides = None,
    run: Run = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Ask one question of what is remembered, and see what the answer rests on."""
    from memgpt_cli.errors import UsageError
    from memgpt_cli.schema import unfit

    if what := unfit(question) or ("nothing" if not question.strip() else ""):
        raise UsageError(f"the question holds {what}")
    with open_session(run, overrides, config_dir, store, namespace, key_env) as session:
        reply = session.ask(question)
        if as_json:
            read = [r._asdict() for r in reply.read]
            told = {"run": session.name, "question": question, "answer": reply.text, "complete": reply.complete}
            print_json({**told, "logp": reply.logp, "null": reply.null, "read": read, "notes": reply.notes})
        else:
            _show(session, reply)


def _show(session: "Session", reply: "Reply") -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    out.print(escape(reply.text), style="bold")
    table = Table("weight", "id", "entry", "from", box=None, pad_edge=False, header_style="dim")
    for read in reply.read[:3]:
        cells = (f"{read.weight:.2f}", str(read.id or ""), escape(read.text), escape(read.place))
        table.add_row(*cells, style="dim")
    told = console(stderr=True)
    if reply.read:
        told.print(table)
    else:
        told.print(f"nothing about it was found in the memory of '{session.namespace}'", style="yellow", markup=False)
    for note in reply.notes:
        told.print(note, style="yellow", markup=False)
