"""A tokenizer from a folder or a file, whichever kind it is."""

from pathlib import Path

from memgpt_cli.errors import CheckpointError
from memgpt_cli.tokenizer.base import Tokenizer
from memgpt_cli.tokenizer.lossless import MODEL_FILE, LosslessTokenizer
from memgpt_cli.tokenizer.pretrained import CONFIG_FILE, JSON_FILE, SPIECE_FILE, ByteTokenizer, description_of, from_files


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder or a file, whichever kind it is; raises CheckpointError."""
    if path.is_file():
        return LosslessTokenizer.load(path) if path.name == MODEL_FILE else from_files(path, path.parent)
    if (path / MODEL_FILE).is_file() and not (path / JSON_FILE).is_file():
        return LosslessTokenizer.load(path)
    described = description_of(path)
    if described.get("tokenizer_class", "").startswith("ByT5"):
        return ByteTokenizer(described)
    for name in (JSON_FILE, SPIECE_FILE):
        if (path / name).is_file():
            return from_files(path / name, path)
    raise CheckpointError(
        f"{path} holds no tokenizer: expected {MODEL_FILE}, {JSON_FILE}, {SPIECE_FILE} or a ByT5's {CONFIG_FILE}"
    )
