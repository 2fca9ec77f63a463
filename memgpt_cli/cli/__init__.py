"""The command line. Commands import what they need when they run: `memgpt --help` loads no torch."""

import contextlib
import errno
import io
import os
import signal
import sys
from typing import Any

from memgpt_cli import plugins
from memgpt_cli.cli.app import app
from memgpt_cli.errors import MemgptError, Terminated, in_words

ORDER = ("preprocess", "train", "eval", "generate", "ask", "chat", "export", "config", "doctor")


def load_commands() -> None:
    """Adds the commands to the application: ours in the order `--help` lists them, then what other packages bring.

    One of another package that cannot be loaded is said, and the others work.
    """
    for name in plugins.names(plugins.COMMANDS):
        try:
            plugins.load(plugins.COMMANDS, name, name)
        except MemgptError as error:
            _say(str(error))
    place = {name: n for n, name in enumerate(ORDER)}
    app.registered_commands.sort(key=lambda c: place.get(str(c.name or getattr(c.callback, "__name__", "")), len(ORDER)))


def main() -> None:
    """Entry point of the `memgpt` script: an error is one line and an exit code, a traceback only with --debug."""
    _be_lenient()
    signal.signal(signal.SIGTERM, _terminated)
    code = run(_app)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or _failed(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
    sys.exit(code)


def _app(**settings: Any) -> Any:
    load_commands()
    return app(**settings)


def _terminated(number: int, frame: object) -> None:
    """As Ctrl-C: what is half-done is undone on the way out."""
    raise Terminated


def _be_lenient() -> None:
    """What a stream cannot encode or decode is escaped, and named by who reads it; it never ends a command half-way.

    A stream that is closed is a device that holds nothing.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream, how in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=how)


def run(command: Any) -> int:
    """Runs the application; returns its exit code."""
    try:
        found = command(standalone_mode=False)
        if found == 130:  # what Typer makes of Ctrl-C
            _say("interrupted")
        return found if isinstance(found, int) else 0
    except Exception as error:
        if "--debug" in sys.argv and not isinstance(error, BrokenPipeError):
            raise
        return _failed(error)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def _failed(error: Exception) -> int:
    """Says what went wrong in one line; returns the exit code."""
    if isinstance(error, MemgptError):
        _say(str(error))
        return error.exit_code
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return 2
    if hasattr(error, "format_message"):  # the command line itself is wrong; Typer brings its own copy of Click
        path = getattr(getattr(error, "ctx", None), "command_path", "memgpt")
        _say(f"{' '.join(error.format_message().split())} (see {path} --help)")
        return int(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort":
        _say("the input ended before it was whole")
        return 1
    if isinstance(error, OSError) and error.errno == errno.EPIPE:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    if words := in_words(error):
        _say(words)
        return 1
    first = str(error).strip().split("\n")[0][:300]
    _say(f"a fault of memgpt's, not yours ({type(error).__name__}: {first}): --debug shows where")
    return 70  # EX_SOFTWARE of sysexits.h


def _say(text: str) -> None:
    from memgpt_cli.cli.terminal import visible

    shown = visible(f"memgpt: {text}").rstrip().replace("\n", "\n        ")  # a file's name forges no line of ours
    with contextlib.suppress(OSError):
        print(shown, file=sys.stderr)


__all__ = ["app", "load_commands", "main", "run"]
