"""Runs on disk: models and training state as safetensors plus JSON, written whole or not at all. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from memgpt_cli.checkpoint.untrusted import check_tokenizer, describe_run, read_checked
from memgpt_cli.checkpoint.weights import write_tensors
from memgpt_cli.config import Config, bundled_folder, to_dict
from memgpt_cli.errors import CheckpointError
from memgpt_cli.files import Kind, new_folder, write_text
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.tokenizer import Tokenizer, load_tokenizer
from memgpt_cli.tokenizer.base import FILES as TOKENIZER_FILES

RUNS_ROOT = Path("runs")
BUNDLED = bundled_folder("companion")
"""A trained companion that comes with the program: what there is to talk with before anything is trained here."""
EVAL = "eval"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
ENTRY_VECTOR = ("encoder.", "embedding.", "retriever.key.")  # the parameters that make an entry's vector
TREE_TENSORS, TREE_JSON = "state.safetensors", "state.json"
HISTORY, CURVE, CHECKPOINTS, ADAPTER = "history.jsonl", "learning_curve.png", "checkpoints", "adapter"
SHARE = "share of vectors"
"""In a run's notes: how much vectors count beside words where entries are recalled."""
STATE = Kind("a checkpoint", TREE_JSON, (), (TREE_TENSORS, TREE_JSON))
MODEL = Kind("a model", CONFIG, ("data", "model", "tokenizer"), (WEIGHTS, CONFIG, *TOKENIZER_FILES))
PEFT = Kind("an adapter", "adapter_config.json", ("peft_type",), ("adapter_model.safetensors", "adapter_config.json"))
RUN = Kind(
    "a run",
    CONFIG,
    ("data", "model", "optim", "trainer", "data_key"),
    (
        CONFIG, HISTORY, CURVE, "logs/events.out.tfevents.*", "logs/hparams.yaml", "eval/*.json", "eval/*.jsonl",
        *MODEL.within("model"), *PEFT.within(ADAPTER), *STATE.within(f"{CHECKPOINTS}/step-[0-9]*"),
    ),
)  # fmt: skip


def save_tree(folder: Path, tree: Any) -> None:
    """Any nesting of dicts, lists, tensors and plain values as `state.safetensors` + `state.json`; atomic."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, "", tensors))
    with new_folder(folder, STATE) as partial:
        write_tensors(tensors, partial / TREE_TENSORS)
        (partial / TREE_JSON).write_text(text)


def load_tree(folder: Path) -> Any:
    """What `save_tree` wrote; raises CheckpointError."""
    try:
        tensors = load_file(folder / TREE_TENSORS)
        return _unpack(json.loads((folder / TREE_JSON).read_text()), tensors)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is no readable checkpoint, or a damaged one: move it away, and the one before it serves"
        ) from error


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": place}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _pack(v, f"{place}/{key}", tensors) for key, v in value.items()}
        return {"__items__": [[key, _pack(v, f"{place}/{key}", tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        packed = [_pack(v, f"{place}/{n}", tensors) for n, v in enumerate(value)]
        return {"__tuple__": packed} if isinstance(value, tuple) else packed
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise CheckpointError(f"a {type(value).__name__} at {place} cannot be kept in a checkpoint")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__items__" in value:
        return {key: _unpack(v, tensors) for key, v in value["__items__"]}
    if "__tuple__" in value:
        return tuple(_unpack(v, tensors) for v in value["__tuple__"])
    return {key: _unpack(v, tensors) for key, v in value.items()}


def note(model: Path, name: str, value: Any) -> None:
    """Adds a note to a model that is saved already."""
    described = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    described["notes"] = {**described.get("notes", {}), name: value}
    write_text(model / CONFIG, json.dumps(described, ensure_ascii=False, indent=1))


def save_model(folder: Path, weights: dict[str, Tensor], tokenizer: Tokenizer, config: Config, notes: dict[str, Any]) -> None:
    """A model folder: weights, the run's whole configuration (its `model` the shape of these weights), the tokenizer; atomic."""
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    described = to_dict(config) | {"notes": notes, "tokenizer": tokenizer.fingerprint}
    with new_folder(folder, MODEL) as partial:
        write_tensors(
            weights, partial / WEIGHTS, metadata={"format": f"memgpt-1 {fingerprint_of(weights)}"}
        )  # one key: their order is not kept
        (partial / CONFIG).write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")
        tokenizer.save(partial)


def load_model(folder: Path) -> tuple[MemoryTransformer, Tokenizer, Config]:
    """A model folder as `save_model` wrote it, in evaluation mode; raises CheckpointError with every tensor that is off.

    The folder may be somebody else's (`checkpoint.untrusted`): the configuration comes without places.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} holds no {name}: train a model first (memgpt train) or name a run with --run")
    described = describe_run(folder, CONFIG)
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer, described, folder)
    weights = read_checked(described.config.model, folder / WEIGHTS)
    model = MemoryTransformer(described.config.model)
    model.load_state_dict(weights)
    return model.eval(), tokenizer, described.config


def fingerprint(folder: Path) -> str:
    """Of the weights that make an entry's vector: as it was noted beside them, or computed where it was not."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            noted = (file.metadata() or {}).get("format", "").removeprefix("memgpt-1").strip()
        return noted[:64] if noted.isalnum() and len(noted) == 16 else fingerprint_of(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} holds no safetensors, or is damaged") from error


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """Of the weights among these that make an entry's vector."""
    digest = hashlib.sha256()
    for name in sorted(n for n in weights if n.startswith(ENTRY_VECTOR)):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def run_folders(root: Path) -> Iterator[Path]:
    """Run folders that hold a trained model, the newest first."""
    found = [p for p in root.glob("[!.]*") if (p / "model" / WEIGHTS).is_file()] if root.is_dir() else []
    return iter(sorted(found, key=lambda p: (p / "model" / WEIGHTS).stat().st_mtime, reverse=True))


def find_run(name: str, root: Path) -> Path:
    """The run of this name or path, `companion` the bundled one, or the newest; raises CheckpointError with what there is."""
    if name:
        for folder in (root / name, Path(name), BUNDLED.parent / name):
            if (folder / "model" / WEIGHTS).is_file():
                return folder
        known = [p.name for p in run_folders(root)]
        raise CheckpointError(
            f"no trained run '{name}' in {root}.{' Runs: ' + ', '.join(known) if known else ' Type memgpt train first.'}"
        )
    newest = next(run_folders(root), None)
    if newest is None:
        raise CheckpointError(f"no trained run in {root}: type memgpt train first (--run companion is one that comes along)")
    return newest


def scores_folder(run: Path) -> Path:
    """Where what is measured of a run is kept: inside it, or below `runs/` for the bundled one."""
    return (RUNS_ROOT / run.name if run == BUNDLED else run) / EVAL
