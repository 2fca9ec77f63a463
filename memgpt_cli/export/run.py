"""One export: written beside its place, checked there, and only then put in it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgpt_cli import __version__
from memgpt_cli.checkpoint import find_run, load_model
from memgpt_cli.checkpoint.runs import MODEL
from memgpt_cli.checkpoint.untrusted import describe_run
from memgpt_cli.config import Config
from memgpt_cli.data.dataset import EpisodeDataset
from memgpt_cli.errors import CheckpointError, UsageError, did_you_mean
from memgpt_cli.files import Kind, check_own, new_folder
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.tokenizer import EOS, Tokenizer
from memgpt_cli.tokenizer.base import FILES as TOKENIZER_FILES

SENTENCES = (
    ("Anna keeps three grey cats in the house by the river.", "Anna has three cats."),
    ("summarize: The meeting was moved from Monday to Friday, since half of the team is ill.", "The meeting is on Friday."),
    ("Where does Peter live?", "in Lisbon"),
    ("安娜住在河边的房子里，养了三只猫。", "安娜有三只猫。"),
    ("Preise: 12,50 € – naïve café ☕", "12,50 €"),
    ("user: hello\nbot: what can i do for you?\n\nuser:  two  spaces, and a tab:\t!", "ok"),
    ("The river, the house and the cats. " * 40, "the cats"),
    ("a", "b"),
)


@dataclass
class Source:
    """What is exported: a run's best model, with everything a card says of it."""

    run: Path
    model: MemoryTransformer
    tokenizer: Tokenizer
    config: Config  # without the places of the machine it was trained on: `load_model` leaves them out
    notes: dict[str, Any]
    license: str = ""

    def samples(self, most: int = 8) -> tuple[list[str], list[str]]:
        """Inputs and targets to compare outputs on: the run's own validation data where it is still there."""
        pairs: list[tuple[str, str]] = []
        for split in ("valid", "test"):
            if not pairs and (folder := Path("data", self.config.data.name, split)).is_dir():
                data = EpisodeDataset(folder)
                found = [(x.input, x.target) for n in range(min(most, len(data))) for x in data[n].examples]
                pairs = found[:: max(1, len(found) // most)][:most]
        texts, targets = zip(*(pairs + list(SENTENCES)), strict=True)
        return list(texts), list(targets)

    def ids(self, texts: list[str], limit: int = 128) -> Tensor:
        """[n, L]: ids of texts, each ending in EOS, cut to `limit`, padded with 0."""
        rows = [torch.tensor([*ids[: limit - 1], EOS]) for ids in self.tokenizer.encode_all(texts)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    @torch.inference_mode()
    def logits(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """[n, T, V] without memory, row by row, so that padding plays no part."""
        out = torch.zeros(*targets.shape, self.model.config.vocab_size)
        for n, (text, target) in enumerate(zip(inputs, targets, strict=True)):
            said = self.model(text[text != 0][None], target[target != 0][None])
            out[n, : said.shape[1]] = said[0]
        return out


@dataclass
class Exported:
    folder: Path
    checks: list[str] = field(default_factory=list)  # what was compared, and how it came out
    notes: list[str] = field(default_factory=list)  # what the format cannot hold


Writer = Callable[[Source, Path], Exported]


def _writers() -> dict[str, Writer]:
    from memgpt_cli.export.as_ctranslate2 import write_ctranslate2
    from memgpt_cli.export.as_hf import write_hf
    from memgpt_cli.export.as_onnx import write_onnx
    from memgpt_cli.export.as_safetensors import write_safetensors

    return {"hf": write_hf, "safetensors": write_safetensors, "onnx": write_onnx, "ctranslate2": write_ctranslate2}


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
FORMATS = ("hf", "safetensors", "onnx", "ctranslate2")
_IMPOSSIBLE = {
    "gguf": "llama.cpp's T5 has no memory, and no package brings its runtime to check an export with; export hf and use its convert_hf_to_gguf.py"
}


def export_run(name: str, root: Path, folder: Path, kind: str, license: str = "", force: bool = False) -> Exported:
    """Exports a run's model into `folder` and checks it there.

    Raises UsageError for an unknown format or a folder in use, CheckpointError where the model does not fit the format
    or the check fails; then `folder` is left as it was.
    """
    if kind not in FORMATS:
        why = _IMPOSSIBLE.get(kind)
        raise UsageError(
            f"--format {kind} is not possible: {why}" if why else f"'{kind}' is no format.{did_you_mean(kind, FORMATS)}"
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
        made = _writers()[kind](source, partial)
        (partial / MARK).write_text(json.dumps({"format": kind, "run": run.name, "memgpt": __version__}))
    made.folder = folder
    return made


def need(module: str, extra: str = "export") -> Any:
    """An optional library; raises UsageError with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"this export needs {module}: pip install 'memgpt-cli[{extra}]'") from error


def compare(what: str, ours: Tensor, theirs: Tensor, real: Tensor, tolerance: float = 1e-4) -> str:
    """The largest difference, relative to the largest value; raises CheckpointError beyond the tolerance."""
    ours, theirs = ours[real].float(), theirs[real].float()
    off = float((ours - theirs).abs().max() / ours.abs().max())
    if not off <= tolerance:
        raise CheckpointError(
            f"the export is not the same model: {what} differ by {off:.1e} of their largest, at most {tolerance:.0e} is right"
        )
    return f"{what}: differ by at most {off:.1e} of their largest"
