"""memgpt memory."""

from memgpt_cli.cli.memory import read, change, files, care  # noqa: F401, I001  the order that `--help` lists them in
