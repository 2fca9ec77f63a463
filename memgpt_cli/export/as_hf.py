"""A plain T5 in Hugging Face format. What reads memory lies beside it, for `load_pretrained` to find again."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from memgpt_cli.checkpoint import load_pretrained
from memgpt_cli.checkpoint.families import description_of, logits_factor, weight_names
from memgpt_cli.checkpoint.pretrained import MEMORY_CONFIG, MEMORY_WEIGHTS
from memgpt_cli.config import GenerateConfig
from memgpt_cli.errors import CheckpointError
from memgpt_cli.export.card import USE_TRANSFORMERS, model_card
from memgpt_cli.export.source import Exported, Source, compare
from memgpt_cli.extras import need
from memgpt_cli.inference.decode import generate
from memgpt_cli.model.inputs import plain_batch
from memgpt_cli.tokenizer import EOS, LosslessTokenizer
from memgpt_cli.tokenizer.pretrained import from_lossless

MOST_NEW = 24


def write_plain(source: Source, folder: Path) -> None:
    """config.json, model.safetensors and the tokenizer; raises CheckpointError where the model is no T5."""
    model = source.model
    described = description_of(model.config) | {"torch_dtype": "float32"}
    names = weight_names(model.config)
    weights = {names[k]: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k in names}
    weights["decoder.final_layer_norm.weight"] = weights["decoder.final_layer_norm.weight"] * logits_factor(model.config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(described, indent=2))
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))
    tokenizer = source.tokenizer
    (from_lossless(tokenizer) if isinstance(tokenizer, LosslessTokenizer) else tokenizer).save(folder)


def write_hf(source: Source, folder: Path) -> Exported:
    """A folder that transformers loads as what it is without memory, checked there by a process of its own."""
    need("transformers", "this export")
    write_plain(source, folder)
    model = source.model
    reading = model.memory_parameters()
    memory = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k in reading}
    save_file(memory, folder / MEMORY_WEIGHTS, metadata={"format": "memgpt-1"})
    (folder / MEMORY_CONFIG).write_text(json.dumps({"read": asdict(model.config.memory)}, indent=1))
    (folder / "README.md").write_text(model_card(source, USE_TRANSFORMERS), encoding="utf-8")
    made = Exported(folder, check_plain(source, folder))
    again, factor = load_pretrained(folder).state_dict(), logits_factor(model.config)
    ours = {k: v * factor if k == "decoder.norm.weight" else v for k, v in model.state_dict().items()}
    if any(not torch.equal(again[k], v) for k, v in ours.items()):
        raise CheckpointError("the export is not the same model: load_pretrained gives other weights")
    made.checks.append(f"memgpt's load_pretrained: all {len(again)} tensors are the run's, memory's {len(memory)} among them")
    made.notes.append(f"transformers reads no memory: entries are for memgpt alone ({MEMORY_WEIGHTS}, {len(memory)} tensors)")
    return made


def check_plain(source: Source, folder: Path) -> list[str]:
    """Ids, logits and greedy outputs in a fresh process that imports transformers and nothing of ours."""
    texts, targets = source.samples()
    inputs, wanted = source.ids(texts), source.ids(targets)
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.safetensors", Path(scratch) / "answered.safetensors"
        save_file({"inputs": inputs, "targets": wanted}, asked)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("in_transformers.py")), str(folder), str(asked), str(answered), str(MOST_NEW)],
            input=json.dumps(texts), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise CheckpointError(f"transformers cannot load the export: {done.stderr.strip().splitlines()[-1]}")
        theirs = load_file(answered)
        told = json.loads(done.stdout.splitlines()[-1])
    same = sum(ids == [*own, EOS] for ids, own in zip(told["ids"], source.tokenizer.encode_all(texts), strict=True))
    if same < len(texts):
        raise CheckpointError(
            f"the export is not the same model: {len(texts) - same} of {len(texts)} texts get other ids in transformers"
        )
    checks = [f"transformers {told['version']}, {len(texts)} texts: the same ids"]
    checks.append(compare("logits", source.logits(inputs, wanted), theirs["logits"], wanted != 0))
    batch = plain_batch(inputs, torch.ones(len(texts), 1, dtype=torch.long))
    ours = [rows[0] for rows in generate(source.model, batch, GenerateConfig(max_tokens=MOST_NEW)).ids]
    said = [[i for i in row if i > 1] for row in theirs["said"].tolist()]
    equal = sum([i for i in mine if i > 1] == other for mine, other in zip(ours, said, strict=True))
    if equal < len(texts):
        raise CheckpointError(
            f"the export is not the same model: {len(texts) - equal} of {len(texts)} greedy outputs differ in transformers"
        )
    return [*checks, f"greedy outputs of {MOST_NEW} tokens: {equal} of {len(texts)} equal"]
