"""A run may be somebody else's: what its files say is checked before anything is allocated, read or followed.

Its `config.json` says what the model is and how it was trained. It does not say where anything of yours lies: no store, no
path, no URL, no knowledge file outside the run and the package, no environment variable. Those are for who types them.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from memgpt_cli.checkpoint.weights import mismatches
from memgpt_cli.config import Config, DataConfig, build, bundled_folder
from memgpt_cli.errors import CheckpointError, MemgptError
from memgpt_cli.hub import without_place
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import ModelConfig
from memgpt_cli.tokenizer import Tokenizer

_CONFIG_BYTES = 16 << 20
_OPTIONS = ("knowledge_base", "hub", "hub_config", "memory_source", "memory_target")  # of sources: they name files and hubs


class Described(NamedTuple):
    config: Config  # without what is not followed
    notes: dict[str, Any]  # what training noted of the model
    tokenizer: str  # the fingerprint of the tokenizer it was trained with
    ignored: tuple[str, ...]  # settings of a conversation or a store that the run names, and that are not followed


def describe_run(folder: Path, file: str = "config.json") -> Described:
    """What the model folder of a run says of itself; raises CheckpointError."""
    path = folder / file
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file")
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, expected a configuration")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON, or damaged") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is no configuration: expected an object")
    notes, mark, old = values.pop("notes", {}), values.pop("tokenizer", ""), values.pop("memory", None)
    if isinstance(old, dict) and "store" not in values:  # what the group was called before
        values["store"] = {"url" if name == "store" else name: value for name, value in old.items()}
    try:
        config: Config = build(Config, values)
    except MemgptError as error:
        raise CheckpointError(f"{path}: {error}") from error
    own = _without_places(config, folder)
    names = ("data.chat.knowledge", "store.url", "store.namespace", "store.key_env")
    ignored = tuple(name for name in names if _setting(config, name) and not _setting(own, name))
    return Described(own, notes if isinstance(notes, dict) else {}, str(mark), ignored)


def _setting(config: Config, name: str) -> str:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return str(value)


def _without_places(config: Config, folder: Path) -> Config:
    data = config.data
    knowledge = data.chat.knowledge
    inside = (place / knowledge for place in (bundled_folder(data.source), folder))
    if Path(knowledge).name != knowledge or not any(
        p.is_file() and not p.is_symlink() for p in inside
    ):  # a link leads anywhere
        knowledge = ""
    data = replace(
        without_data_places(data),
        tokenizer=replace(data.tokenizer, path="", revision="", add=()),
        chat=replace(data.chat, knowledge=knowledge),
    )
    store = replace(config.store, url="", namespace="", key_env="")
    model = replace(config.model, init_from=without_place(config.model.init_from))
    return replace(config, data=data, store=store, model=model)


def without_data_places(data: DataConfig) -> DataConfig:
    """The data's settings without where they lie; what the package brings stays."""
    given = [name for names in data.files.values() for name in (names if isinstance(names, list | tuple) else [names])]
    inside = data.path == "bundled" and all(isinstance(n, str) and Path(n).name == n and n != ".." for n in given)
    options = {name: value for name, value in data.options.items() if name not in _OPTIONS}
    corpus = replace(data.corpus, path="own" if data.corpus.own else "", namespace="")
    return replace(data, path="bundled" if inside else "", files=data.files if inside else {}, corpus=corpus, options=options)


def read_checked(model: ModelConfig, file: Path) -> dict[str, Tensor]:
    """The weights of a model of this shape. Their headers are compared with the shape before anything is allocated.

    Raises CheckpointError with every tensor that is missing, unexpected, misshapen, or holds what is no number.
    """
    try:
        with safe_open(file, "pt") as weights:
            shapes = {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} holds no safetensors, or is damaged") from error
    _check_depth(model, shapes, file)
    with torch.device("meta"):
        own = MemoryTransformer(model).state_dict()
        theirs = {name: torch.empty(shape) for name, shape in shapes.items()}
    if model.copy and "pointer.gate.weight" in shapes and "pointer.follow.weight" not in shapes:
        raise CheckpointError(
            f"{file} has a pointer head of an older release, which copied names worse: it must be trained anew (memgpt train)"
        )
    if "retriever.age_bias" in shapes and "retriever.none" not in shapes:
        raise CheckpointError(
            f"{file} is of an older release, whose scores did not know that no entry may fit: it must be trained anew (memgpt train)"
        )
    if problems := mismatches(own, theirs):
        raise CheckpointError(f"{file} does not fit this model: {problems}")
    try:
        found = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged") from error
    broken = [name for name, value in found.items() if value.is_complex() or not bool(torch.isfinite(value).all())]
    if broken:
        more = f" and {len(broken) - 4} more" if len(broken) > 4 else ""
        raise CheckpointError(
            f"{file} holds what is no number (NaN or infinite) in {', '.join(broken[:4])}{more}: train it anew"
        )
    return found


def _check_depth(model: ModelConfig, shapes: dict[str, list[int]], file: Path) -> None:
    """Compares the numbers of layers, so that a thousand are not built to find that there are two."""
    for stack, said in (("encoder", model.n_encoder_layers), ("decoder", model.n_decoder_layers)):
        found = {int(m.group(1)) for name in shapes if (m := re.match(rf"{stack}\.layers\.(\d{{1,9}})\.", name))}
        if found != set(range(said)):
            raise CheckpointError(f"{file} holds {len(found)} {stack} layers, the run's config.json says {said}")


def check_tokenizer(tokenizer: Tokenizer, described: Described, folder: Path) -> None:
    """Raises CheckpointError where the tokenizer beside the weights is not the one they were trained with."""
    if described.tokenizer and tokenizer.fingerprint != described.tokenizer:
        raise CheckpointError(
            f"the tokenizer in {folder} is another one ({tokenizer.fingerprint}) than the model was trained with "
            f"({described.tokenizer}): its words would mean other words"
        )
    if len(tokenizer) > described.config.model.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} has {len(tokenizer):,} pieces, the model knows {described.config.model.vocab_size:,}"
        )
