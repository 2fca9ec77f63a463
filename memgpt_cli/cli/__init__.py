"""The command line. Commands import what they need when they run: `memgpt --help` loads no torch."""

import importlib
import sys

from memgpt_cli.cli.app import app
from memgpt_cli.errors import MemgptError

ORDER = ("preprocess", "train", "eval", "generate", "chat", "export", "config", "runs", "doctor")


def load_commands() -> None:
    """Adds the commands to the application, in the order `--help` lists them."""
    for name in ("pipeline", "evaluation", "talking", "memory", "memory_changes", "memory_care", "exporting", "inspection"):
        importlib.import_module(f"memgpt_cli.cli.{name}")
    app.registered_commands.sort(key=lambda c: ORDER.index(c.name or c.callback.__name__ if c.callback else ""))


def main() -> None:
    """Entry point of the `memgpt` script: errors meant for the user are one line, a traceback only with --debug."""
    load_commands()

    try:
        app()
    except MemgptError as error:
        if "--debug" in sys.argv:
            raise
        print(f"memgpt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (FileNotFoundError, PermissionError, IsADirectoryError, UnicodeDecodeError) as error:
        if "--debug" in sys.argv:
            raise
        print(f"memgpt: {error} (--debug shows where)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("memgpt: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


__all__ = ["app", "load_commands", "main"]
