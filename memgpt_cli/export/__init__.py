"""Trained models out: folders that tools which know nothing of memgpt can read, each checked against the run it came from."""

from memgpt_cli.export.run import FORMATS, Exported, export_run

__all__ = ["FORMATS", "Exported", "export_run"]
