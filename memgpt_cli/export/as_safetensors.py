"""Weights and one JSON, whatever the architecture: for tools of one's own, and to hand a run on without its training state."""

from pathlib import Path

import torch

from memgpt_cli.checkpoint import load_model, save_model
from memgpt_cli.errors import CheckpointError
from memgpt_cli.export.card import USE_RUN, model_card
from memgpt_cli.export.source import Exported, Source, compare


def write_safetensors(source: Source, folder: Path) -> Exported:
    """model.safetensors under our own names, config.json and the tokenizer: a folder that --run reads."""
    inner = folder / "model"
    weights = source.model.state_dict()
    kept = {k: v for k, v in source.notes.items() if k != "data"}  # a path of the machine it was trained on
    save_model(inner, weights, source.tokenizer, source.config, kept)
    (folder / "README.md").write_text(model_card(source, USE_RUN), encoding="utf-8")
    again, tokenizer, _ = load_model(inner)
    if any(not torch.equal(again.state_dict()[k], v) for k, v in weights.items()):
        raise CheckpointError("the export is not the same model: tensors differ")
    texts, targets = source.samples()
    if tokenizer.encode_all(texts) != source.tokenizer.encode_all(texts):
        raise CheckpointError("the export is not the same model: its tokenizer gives other ids")
    inputs, wanted = source.ids(texts), source.ids(targets)
    fresh = Source(source.run, again, tokenizer, source.config, {})
    line = compare("logits", source.logits(inputs, wanted), fresh.logits(inputs, wanted), wanted != 0, 1e-6)
    return Exported(folder, [f"all {len(weights)} tensors and the ids of {len(texts)} texts are the run's", line])
