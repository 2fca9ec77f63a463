"""Tensors from files: safetensors, whole or in shards, and PyTorch's older format without unpickling anything."""

import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from memgpt_cli.errors import CheckpointError

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder in Hugging Face format; raises CheckpointError.

    Safetensors are preferred. A `.bin` file is read with `weights_only`: tensors, never code.
    """
    for name in (SAFETENSORS, PYTORCH):
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _read_shards(folder, index)
        if (folder / name).is_file():
            return read_file(folder / name)
    raise CheckpointError(f"{folder} holds no weights: expected {SAFETENSORS}, {PYTORCH}, or either in shards with its index")


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    try:
        place: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}") from error
    names = sorted(set(place.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{len(absent)} of the {len(names)} shards that {index.name} names are missing in {folder}: {', '.join(absent[:4])}"
        )
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names files outside its folder")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(read_file(folder / name))
    lost = sorted(place.keys() - tensors.keys())
    if lost:
        raise CheckpointError(f"{len(lost)} tensors that {index.name} names are in none of the shards: {', '.join(lost[:4])}")
    return tensors


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; raises CheckpointError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or a hostile file: torch raises many kinds
        raise CheckpointError(f"{path} cannot be read as tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected tensors by name")
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def mismatches(own: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """Missing, unexpected and misshapen tensors in one line; empty where everything fits."""
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape:
            problems.append(f"{name} is {list(weights[name].shape)}, expected {list(own[name].shape)}")
    return "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")


def write_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes safetensors; raises OSError, as any other file does, where the disk will not have them."""
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)|code: (\d+)", str(error))
        if number is None:
            raise
        code = int(number.group(1) or number.group(2))
        raise OSError(code, os.strerror(code), str(file)) from error
