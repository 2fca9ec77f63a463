"""The command line. Commands import what they need when they run: `memgpt --help` loads no torch."""

import sys

from memgpt_cli.cli.app import app
from memgpt_cli.errors import MemgptError


def main() -> None:
    """Entry point of the `memgpt` script: errors meant for the user are one line, a traceback only with --debug."""
    import memgpt_cli.cli.evaluation
    import memgpt_cli.cli.inspection
    import memgpt_cli.cli.pipeline
    import memgpt_cli.cli.talking  # noqa: F401

    try:
        app()
    except MemgptError as error:
        if "--debug" in sys.argv:
            raise
        print(f"memgpt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("memgpt: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


__all__ = ["app", "main"]
