"""Trained models out: folders that tools which know nothing of memgpt can read, each checked against the run it came from."""

from memgpt_cli.export.run import export_run
from memgpt_cli.export.source import Exported

__all__ = ["Exported", "export_run"]
