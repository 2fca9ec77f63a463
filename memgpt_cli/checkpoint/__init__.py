"""Models from disk and to disk: our own runs, and pretrained models of the T5 family."""

from memgpt_cli.checkpoint.pretrained import extend_vocabulary, load_pretrained
from memgpt_cli.checkpoint.runs import find_run, fingerprint, load_model, load_tree, save_model, save_tree

__all__ = [
    "extend_vocabulary",
    "find_run",
    "fingerprint",
    "load_model",
    "load_pretrained",
    "load_tree",
    "save_model",
    "save_tree",
]
