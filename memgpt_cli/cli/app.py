"""The Typer application and what its commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from memgpt_cli.config import Config, DataConfig
    from memgpt_cli.data.preprocess import Report
    from memgpt_cli.generation.recall import Encoder, Recall
    from memgpt_cli.memory import Store
    from memgpt_cli.model import MemoryTransformer
    from memgpt_cli.tokenizer import Tokenizer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Encoder-decoder Transformers with an external memory: from raw text to a chat that remembers.\n\n"
    "Start with `memgpt preprocess`, `memgpt train`, `memgpt eval`, `memgpt chat`: none needs an argument.",
    epilog="Settings are given as `key=value`, presets as `group=preset`: `memgpt train trainer=gpu4 optim.lr=1e-3`.",
)

DATA_ROOT, RUNS_ROOT = Path("data"), Path("runs")


def complete_override(incomplete: str) -> list[str]:
    """Shell completion of overrides: presets of groups, then settings."""
    from memgpt_cli.config import GROUPS, all_keys, choices

    presets = [f"{group}={name}" for group in GROUPS for name in choices(group)]
    return [c for c in [*presets, *(f"{key}=" for key in all_keys())] if c.startswith(incomplete)]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings and presets, see `memgpt config`.", autocompletion=complete_override
    ),
]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", help="A folder with presets of your own.", exists=True, file_okay=False)
]
Run = Annotated[str, typer.Option("--run", help="A run's name or folder; the newest where empty.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="MEMGPT_STORE",
        help="A path, sqlite:///PATH or postgresql://USER@HOST/DB; $MEMGPT_HOME/memory.sqlite where empty.",
    ),
]
Namespace = Annotated[
    str, typer.Option("--namespace", envvar="MEMGPT_NAMESPACE", help="Whose memory; your user name where empty.")
]
KeyEnv = Annotated[
    str,
    typer.Option("--key-env", envvar="MEMGPT_KEY_ENV", help="The environment variable that holds an encrypted store's key."),
]
MemoryStore = Annotated[
    str,
    typer.Option("--memory", help="A store to read from: a path or URL; memory.recall entries are recalled for each input."),
]


def print_version(asked: bool) -> None:
    if asked:
        from memgpt_cli import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    pass


def console(stderr: bool = False) -> "Console":
    from memgpt_cli.cli.terminal import SafeConsole

    return SafeConsole(stderr=stderr, soft_wrap=True, highlight=False)


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    from memgpt_cli.cli.terminal import as_json_line

    print(as_json_line(value))


def data_folder(data: "DataConfig") -> Path:
    """The data set a configuration names, preprocessed if it is not there yet; what was rejected of it is said."""
    from memgpt_cli.data.dataset import REJECTS
    from memgpt_cli.data.preprocess import preprocess

    with progress("preprocessing") as report:
        result = preprocess(data, DATA_ROOT, report)
    out = console(stderr=True)
    if not result.already_there:
        out.print(f"preprocessed {data.name} into {result.folder}", markup=False)
    rejected = {s: n for s, v in result.manifest["statistics"].items() if (n := v["changes"].get("records rejected"))}
    if rejected:
        counts = ", ".join(f"{n:,} of {split}" for split, n in rejected.items())
        said = f"records that could not be read, and are left out: {counts}; see {result.folder / REJECTS}"
        out.print(said, style="yellow", markup=False)
    return result.folder


def run_name(config: "Config") -> str:
    """Data and model; data cut for a pretrained model is named after both already."""
    from memgpt_cli.files import plain_name, slug

    own = config.data.name if config.model.init_from else f"{config.data.name}-{slug(config.preset)}"
    return config.run or plain_name(own, "the run's name (set run=NAME)")


def user_name() -> str:
    """The namespace of who gives none."""
    import getpass

    from memgpt_cli.errors import UsageError

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user of that number
        raise UsageError("this system has no name for you: say whose memory it is with --namespace NAME") from None


def say_ignored(model_folder: Path) -> None:
    """Says which settings of a run's own are not followed: it may be somebody else's."""
    from memgpt_cli.checkpoint.untrusted import describe_run

    if ignored := describe_run(model_folder).ignored:
        said = f"this run's own {', '.join(ignored)}: not followed, since a run may be somebody else's. Give it here to have it"
        console(stderr=True).print(said, style="yellow", markup=False)


def open_recall(
    url: str, namespace: str, key_env: str, config: "Config", model: "MemoryTransformer", tokenizer: "Tokenizer", folder: Path
) -> "Recall":
    """A store that there is already, with keys of this model; raises UsageError where there is none."""
    from memgpt_cli.checkpoint import fingerprint
    from memgpt_cli.errors import UsageError
    from memgpt_cli.generation.recall import Encoder, Recall
    from memgpt_cli.memory import open_store

    if "://" not in url and not Path(url).expanduser().is_file():
        raise UsageError(f"--memory {url}: no such store; `memgpt memory import FILES --store {url}` makes one")
    say_ignored(folder)
    store = open_store(url, fingerprint(folder), key_env or config.memory.key_env)
    owner, encoder = namespace or config.memory.namespace or user_name(), Encoder(model, tokenizer)
    if not store.list(owner, limit=1):
        store.close()
        raise UsageError(f"the memory of '{owner}' in {store.url} is empty: --namespace says whose memory to read")
    key_what_is_not(store, owner, encoder)
    return Recall(store, owner, encoder, config.memory.recall)


def key_what_is_not(store: "Store", namespace: str, encoder: "Encoder") -> None:
    """Keys for entries that have none of this model: added by another one, or without any."""
    from memgpt_cli.generation.recall import add_keys

    missing = store.stats(namespace)["unkeyed"]
    if missing:
        said = f"{missing:,} entries of '{namespace}' have no key of this model yet: adding them"
        console(stderr=True).print(said, markup=False)
        with progress("adding keys") as report:
            add_keys(store, namespace, encoder, report)


@contextmanager
def progress(title: str) -> Iterator["Report"]:
    """A report of stages and counts: a bar on a terminal; off it a line every few seconds, and at once where one has to wait."""
    import time

    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    if not out.is_terminal:
        said: list[Any] = [time.monotonic(), ""]

        def line(stage: str, n: int) -> None:
            if time.monotonic() - said[0] > 5 or (stage.startswith("waiting") and stage != said[1]):
                out.print(f"{stage} {n:,}" if n else stage, markup=False)
                said[:] = [time.monotonic(), stage]

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(title, total=None, count="")
        yield lambda stage, n: bar.update(task, description=stage, count=f"{n:,}" if n else "")
