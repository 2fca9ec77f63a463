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
    from memgpt_cli.inference.session import Session

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    no_args_is_help=True,
    context_settings=HELP,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Encoder-decoder Transformers with an external memory: from raw text to a chat that remembers.\n\n"
    "Start with `memgpt preprocess`, `memgpt train`, `memgpt eval`, `memgpt chat`: none needs an argument.",
    epilog="Settings are given as `key=value`, presets as `group=preset`: `memgpt train trainer=gpu4 optim.lr=1e-3`.",
)

DATA_ROOT = Path("data")


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
OldMemory = Annotated[str, typer.Option("--memory", hidden=True, help="What --store was called.")]


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
    out, changes = console(stderr=True), changes_of(result.manifest)
    if not result.already_there:
        out.print(f"preprocessed {data.name} into {result.folder}", markup=False)
        for split, what, n in changes:
            if "corpus" in (split, *what.split()):
                out.print(f"  {split}: {what}: {n:,}", markup=False, highlight=False)
    if rejected := [(split, n) for split, what, n in changes if what == "records rejected"]:
        counts = ", ".join(f"{n:,} of {'the corpus' if split == 'corpus' else split}" for split, n in rejected)
        said = f"records that could not be read, and are left out: {counts}; see {result.folder / REJECTS}"
        out.print(said, style="yellow", markup=False)
    return result.folder


def changes_of(manifest: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Split or corpus, what was changed, left out or looked for there, and how often."""
    counted = manifest["statistics"] | ({"corpus": corpus} if (corpus := manifest.get("corpus")) else {})
    return [(split, *item) for split, s in counted.items() for item in s["changes"].items()]


def own_data(overrides: list[str] | None) -> list[str]:
    """The overrides with `data=FILE` (or a folder) of the user's own made into the settings that read it, which are shown."""
    from memgpt_cli.data.guess import guess, is_own

    given = list(overrides or [])
    for n, override in enumerate(given):
        name, _, value = override.partition("=")
        if name == "data" and is_own(value):
            rest = given[:n] + given[n + 1 :]
            guessed, said = guess(value, rest)
            console(stderr=True).print(said, style="dim", markup=False)
            return [*guessed, *rest]
    return given


def run_name(config: "Config") -> str:
    """Data and model; data cut for a pretrained model is named after both already."""
    from memgpt_cli.files import plain_name, slug

    own = config.data.name if config.model.init_from else f"{config.data.name}-{slug(config.preset)}"
    return config.run or plain_name(own, "the run's name (set run=NAME)")


def store_named(store: str, namespace: str, old: str, key_env: str) -> str | None:
    """What `Session.open` takes: None where neither a store nor whose memory is named here."""
    return store or old or ("" if namespace or key_env else None)


def open_session(
    run: str,
    overrides: list[str] | None = None,
    config_dir: Path | None = None,
    store: str | None = None,
    namespace: str = "",
    key_env: str = "",
    create: bool = False,
) -> "Session":
    """A session that says which run it is and what of its settings is not followed, with vectors of all that is stored.

    Raises UsageError where the memory that is to be read is empty (and not made here).
    """
    from memgpt_cli.errors import UsageError
    from memgpt_cli.inference.session import Session

    session = Session.open(
        run, store=store, namespace=namespace, key_env=key_env, overrides=overrides or [], config_dir=config_dir, create=create
    )
    out = console(stderr=True)
    out.print(f"run {session.name}" + (f" ({session.folder})" if session.folder else ""), style="dim", markup=False)
    if session.ignored:
        said = f"this run's own {', '.join(session.ignored)}: not followed, since a run may be somebody else's. Give it here to have it"
        out.print(said, style="yellow", markup=False)
    if session.recall is None:
        return session
    if not create and not session.store.list(session.namespace, limit=1):
        url = session.store.url
        session.close()
        raise UsageError(f"the memory of '{session.namespace}' in {url} is empty: --namespace says whose memory to read")
    add_missing_vectors(session)
    return session


def add_missing_vectors(session: "Session") -> None:
    """Vectors for entries that have none of this model: added by another one, or without any."""
    if missing := session.store.stats(session.namespace).without_vector:
        said = f"{missing:,} entries of '{session.namespace}' have no vector of this model yet: adding them"
        console(stderr=True).print(said, markup=False)
        with progress("adding vectors") as report:
            session.add_missing_vectors(report)


def attach_corpus(session: "Session", folder: Path) -> bool:
    """Where a data set has a corpus to answer from, it is what the session reads from now on; returns whether it is."""
    from memgpt_cli.data.corpus import FOLDER, NAMESPACE, STORE
    from memgpt_cli.data.dataset import DATA_SET, read_manifest

    file = folder / FOLDER / STORE
    if not DATA_SET.marks(folder) or not file.is_file() or read_manifest(folder)["config"]["corpus"]["path"] == "own":
        return False
    session.attach(str(file.absolute()), NAMESPACE)
    add_missing_vectors(session)
    return True


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
