"""Pretrained models of the T5 family, weight for weight, with memory beside them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgpt_cli import hub
from memgpt_cli.checkpoint.families import rename, shape_of, weight_names, with_shape
from memgpt_cli.checkpoint.weights import mismatches, read_file, read_weights
from memgpt_cli.config import build
from memgpt_cli.errors import CheckpointError
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import ModelConfig, ReadConfig

MEMORY_WEIGHTS, MEMORY_CONFIG = "memory.safetensors", "memory.json"
PRETRAINED = ModelConfig(copy=False, memory=ReadConfig(gate=True, score_scale=16.0))


def load_pretrained(
    path_or_id: str | Path, config: ModelConfig = PRETRAINED, dtype: torch.dtype = torch.float32
) -> MemoryTransformer:
    """A model of the T5 family from a folder in Hugging Face format or from the hub, in evaluation mode.

    `model(input_ids, target_ids)`, both padded with 0, gives the logits [B, T, V] of that very model: memory is beside it,
    and until it is trained reading entries changes nothing (`memory.gate`).

    Args:
        path_or_id: a folder, or a repository such as `google/flan-t5-base`, which is downloaded where the cache lacks it.
        config: its `memory`, `dropout`, `copy`, `revision` and `init_parts` are read, and `vocab_size` where it is larger
            than the checkpoint's: new rows are the mean of the others. The rest is the checkpoint's.
        dtype: of all parameters.

    Raises CheckpointError with every tensor that is missing, unexpected or misshapen.
    """
    name = str(path_or_id)
    folder = hub.fetch(name, config.revision)
    shape = shape_of(describe(folder), folder)
    weights = read_weights(folder)
    decoder = config.init_parts == "all"
    tied = _is_tied(weights)
    read = _exported_memory(folder, config.memory)
    config = with_shape(replace(config, init_from=name, memory=read), shape, tied)
    with torch.device("meta"):  # the pretrained part is never given random values first
        model = MemoryTransformer(replace(config, vocab_size=shape["vocab_size"]))
    names = weight_names(model.config, decoder)
    weights = {k: v.to(dtype) for k, v in rename(weights, model.config, decoder).items()}
    own = {names[k]: v for k, v in model.state_dict().items() if k in names}
    if problems := mismatches(own, {names.get(k, k): v for k, v in weights.items()}):
        hint = ""
        if decoder and not any(k.startswith("decoder.") for k in weights):
            hint = ". It holds an encoder alone: add model.init_parts=encoder"
        raise CheckpointError(f"{folder} does not fit this model: {problems}{hint}")
    model.load_state_dict(weights, strict=False, assign=True)
    if not decoder:
        _start_decoder(model, dtype)
    model.add_memory()
    _load_memory(model, folder)
    if config.vocab_size > shape["vocab_size"]:
        extend_vocabulary(model, config.vocab_size)
    return model.to(dtype).requires_grad_(True).eval()


def describe(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder in Hugging Face format; raises CheckpointError."""
    try:
        described: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no config.json: expected a model in Hugging Face format") from None
    except ValueError as error:
        raise CheckpointError(f"{folder}/config.json is no JSON: {error}") from error
    if "model_type" not in described and "preset" in described:
        raise CheckpointError(f"{folder} is a run of memgpt: use load_model, or memgpt export --format hf first")
    return described


def _is_tied(weights: dict[str, Tensor]) -> bool:
    """Whether the head is the embedding. The files of some releases hold it twice, some configurations say otherwise."""
    head, table = weights.get("lm_head.weight"), weights.get("shared.weight")
    return head is None or (table is not None and head.shape == table.shape and bool(torch.equal(head, table)))


def _start_decoder(model: MemoryTransformer, dtype: torch.dtype) -> None:
    """Random weights for a decoder whose checkpoint held an encoder alone."""
    fresh = MemoryTransformer(model.config)
    missing = {k: v.to(dtype) for k, v in fresh.state_dict().items() if k.startswith(("decoder.", "head."))}
    model.load_state_dict(missing, strict=False, assign=True)


def _exported_memory(folder: Path, asked: ReadConfig) -> ReadConfig:
    """What was asked, with what the parameters fix that `memgpt export --format hf` put beside a plain T5."""
    if not (folder / MEMORY_CONFIG).is_file():
        return asked
    read: ReadConfig = build(ReadConfig, json.loads((folder / MEMORY_CONFIG).read_text())["read"], "memory")
    fixed = {name: getattr(read, name) for name in ("max_time", "age_buckets", "gate", "vector", "words")}
    return replace(asked, **fixed)


def _load_memory(model: MemoryTransformer, folder: Path) -> None:
    if not (folder / MEMORY_WEIGHTS).is_file():
        return
    weights = read_file(folder / MEMORY_WEIGHTS)
    own = {k: v for k, v in model.state_dict().items() if k in model.memory_parameters() and not k.startswith("pointer.")}
    if problems := mismatches(own, weights):
        raise CheckpointError(f"{folder / MEMORY_WEIGHTS} does not fit this model: {problems}")
    model.load_state_dict(weights, strict=False)


def extend_vocabulary(model: MemoryTransformer, size: int) -> None:
    """More rows in embedding and head: each about the mean of the others, so that a new token starts as an average one.

    A hundredth of the rows' spread is added, so that no two are the same.
    """
    generator = torch.Generator().manual_seed(size)
    tables: list[Any] = [model.embedding] + ([model.head] if model.head is not None else [])
    for table in tables:
        rows = table.weight.detach()
        noise = torch.randn(size - len(rows), rows.shape[1], generator=generator) * rows.float().std(0) / 100
        new = (rows.float().mean(0) + noise).to(rows.dtype)
        table.weight = torch.nn.Parameter(torch.cat([rows, new]))
    model.embedding.num_embeddings = size
    if model.retriever.words is not None:
        model.retriever.words.extend(size)
    if model.head is not None:
        model.head.out_features = size
    model.config = replace(model.config, vocab_size=size)
