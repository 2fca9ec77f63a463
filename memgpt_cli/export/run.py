"""One export: written beside its place, checked there, and only then put in it."""

import json
from collections.abc import Callable
from pathlib import Path

from memgpt_cli import __version__
from memgpt_cli.checkpoint import find_run, load_model
from memgpt_cli.checkpoint.runs import MODEL
from memgpt_cli.checkpoint.untrusted import describe_run
from memgpt_cli.errors import UsageError, did_you_mean
from memgpt_cli.export.as_ctranslate2 import write_ctranslate2
from memgpt_cli.export.as_hf import write_hf
from memgpt_cli.export.as_onnx import write_onnx
from memgpt_cli.export.as_safetensors import write_safetensors
from memgpt_cli.export.source import Exported, Source
from memgpt_cli.files import Kind, check_own, new_folder
from memgpt_cli.tokenizer.base import FILES as TOKENIZER_FILES

WRITERS: dict[str, Callable[[Source, Path], Exported]] = {
    "hf": write_hf,
    "safetensors": write_safetensors,
    "onnx": write_onnx,
    "ctranslate2": write_ctranslate2,
}
MARK = "memgpt_export.json"
EXPORT = Kind(
    "an export",
    MARK,
    ("format", "run", "memgpt"),
    (
        MARK, "README.md", "config.json", "generation_config.json", "model.safetensors", "memory.safetensors", "memory.json",
        "encoder.onnx", "encoder.onnx.data", "decoder.onnx", "decoder.onnx.data", "model.bin", "shared_vocabulary.json",
        "special_tokens_map.json", "added_tokens.json", "eval/*.json", "eval/*.jsonl", *TOKENIZER_FILES, *MODEL.within("model"),
    ),
)  # fmt: skip
_IMPOSSIBLE = {
    "gguf": "llama.cpp's T5 has no memory, and no package brings its runtime to check an export with; export hf and use its convert_hf_to_gguf.py"
}


def export_run(name: str, root: Path, folder: Path, kind: str, license: str = "", force: bool = False) -> Exported:
    """Exports a run's model into `folder` and checks it there.

    Raises UsageError for an unknown format or a folder in use, CheckpointError where the model does not fit the format
    or the check fails; then `folder` is left as it was.
    """
    if kind not in WRITERS:
        why = _IMPOSSIBLE.get(kind)
        raise UsageError(
            f"--format {kind} is not possible: {why}" if why else f"'{kind}' is no format.{did_you_mean(kind, WRITERS)}"
        )
    folder = folder.absolute()
    if check_own(folder, EXPORT, "name another folder") and any(folder.iterdir()) and not force:
        raise UsageError(f"{folder} holds an export already: name another folder, or add --force to replace it")
    run = find_run(name, root)
    if run.resolve() == folder.resolve():
        raise UsageError(f"{folder} is the run itself: name another folder")
    model, tokenizer, config = load_model(run / "model")
    source = Source(run, model, tokenizer, config, describe_run(run / "model").notes, license)
    with new_folder(folder, EXPORT, "name another folder") as partial:
        made = WRITERS[kind](source, partial)
        (partial / MARK).write_text(json.dumps({"format": kind, "run": run.name, "memgpt": __version__}))
    made.folder = folder
    return made
