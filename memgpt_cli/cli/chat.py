"""memgpt chat."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import ConfigDir, KeyEnv, Namespace, Overrides, Run, StoreUrl, app, console, open_session

if TYPE_CHECKING:
    from memgpt_cli.chat.conversation import Conversation


@app.command(epilog="Example: `memgpt chat --namespace anna`; `printf 'hello\\n/quit\\n' | memgpt chat --store my.sqlite`")
def chat(
    overrides: Overrides = None,
    run: Run = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    new: Annotated[bool, typer.Option("--new", help="Begin a new conversation instead of going on with the last one.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Talk with a trained model, or where none is trained yet with the companion that comes along.

    What is said, and what you tell it to remember, survives a restart.
    """
    from memgpt_cli.chat.repl import run_repl

    run_repl(open_conversation(run, store, namespace, overrides or [], config_dir, key_env), new, console())


def open_conversation(
    run: str, store: str, namespace: str, overrides: list[str], config_dir: Path | None, key_env: str = ""
) -> "Conversation":
    from memgpt_cli.chat.conversation import Conversation, read_knowledge
    from memgpt_cli.checkpoint.runs import BUNDLED, RUNS_ROOT, run_folders
    from memgpt_cli.config import bundled_folder

    if not run and next(run_folders(RUNS_ROOT), None) is None:
        run = BUNDLED.name  # nothing is trained here yet: there is somebody to talk with all the same
    session = open_session(run, overrides, config_dir, store, namespace, key_env, create=True)
    if (gone := session.store.expire(session.namespace)).entries:
        said = f"{gone.entries:,} entries were too old and are forgotten (memgpt memory limit)"
        console(stderr=True).print(
            said + (f", not yet erased: {gone.reason}" if gone.reason else ""), style="yellow", markup=False
        )
    data, knowledge = session.config.data, []
    typed = Path(data.chat.knowledge).expanduser()
    if name := data.chat.knowledge:
        inside = [bundled_folder(data.source) / name, *([session.folder / "model" / name] if session.folder else [])]
        given = any(o.lstrip("+").startswith("data.chat.knowledge=") for o in overrides)  # what is typed here comes first
        places = [typed, *inside] if given else [*inside, typed]
        knowledge = read_knowledge(next((place for place in places if place.is_file()), typed))
    conversation = Conversation(session, knowledge)
    conversation.reads += [typed] if data.chat.knowledge else []
    return conversation
