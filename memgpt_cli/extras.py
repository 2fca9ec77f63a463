"""Optional libraries, and the one way to say that one is missing."""

import importlib
from typing import Any

from memgpt_cli.errors import UsageError

EXTRAS = {
    "tokenizers": "hf", "google.protobuf": "hf", "peft": "peft", "bitsandbytes.optim": "8bit", "transformers": "export",
    "ctranslate2": "export", "ctranslate2.converters": "export", "onnx": "export", "onnxruntime": "export", "onnxscript": "export",
    "psycopg": "postgres", "cryptography.hazmat.primitives.ciphers.aead": "postgres", "pypdf": "documents", "bs4": "documents",
    "faiss": "bench",
}  # fmt: skip
"""Module -> the extra of memgpt-cli that brings it."""


def need(module: str, what: str) -> Any:
    """The module; raises UsageError with the command that installs it. `what` is what needs it, as in "PDF files"."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise UsageError(f"{what} needs {name}: pip install 'memgpt-cli[{EXTRAS[module]}]'") from error
