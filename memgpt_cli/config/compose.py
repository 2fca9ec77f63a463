"""YAML under `conf/` composed by Hydra, with the presets that pretrained weights bring along.

Built on Hydra's compose API: `@hydra.main` and a Typer program exclude each other (hydra#409).
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from memgpt_cli.config.explain import explain
from memgpt_cli.config.places import GROUPS, conf_dir
from memgpt_cli.config.settings import Config, build, to_dict
from memgpt_cli.errors import ConfigError
from memgpt_cli.schema import ModelConfig

_FREE_KEYS = ("data.options", "data.files", "data.hold_out")  # mappings whose keys depend on the source, which checks them

_BRING_EXPERIMENT = ("companion", "records")  # data that is trained as the experiment of its name, where none is named
_OVER_A_CORPUS = {"model.memory.words": "true", "optim.evidence_weight": "0.5"}  # else evidence is found and never asked for
_SHORT = {"data.augment.rename=auto": "data.augment.rename.auto=true", "data.corpus=": "data.corpus.path="}


def _spelled(override: str) -> str:
    """An override that stands for another one, spelled out."""
    for short, full in _SHORT.items():
        if override.startswith(short):
            return full + override[len(short) :]
    return override


def compose(overrides: list[str], config_dir: Path | None = None) -> Config:
    """The configuration with Hydra overrides; raises ConfigError with one line for a person."""
    raw = _compose(overrides, config_dir)
    if raw["model"].get("init_from"):
        raw = _for_pretrained(overrides, config_dir, raw)
    elif (data := raw["presets"]["data"]) in _BRING_EXPERIMENT and not raw["presets"].get("experiment"):
        over_corpus = data == "records" and raw["data"]["corpus"]["path"] not in ("", "own")
        raw = _compose([f"experiment={'corpus' if over_corpus else data}", *overrides], config_dir)
    config: Config = build(Config, {k: v for k, v in raw.items() if k != "presets"} | {"preset": raw["presets"]["model"]})
    return _with_pretrained_tokenizer(config)


def _compose(overrides: list[str], config_dir: Path | None) -> dict[str, Any]:
    """Plain values as Hydra composes them, and under `presets` which preset of each group it took."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    search = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    try:
        free = [f"++{o}" if o.startswith(_FREE_KEYS) else _spelled(o) for o in overrides]
        ConfigStore.instance().store("schema", to_dict(Config()))  # every setting can be overridden, also those no YAML names
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            raw = hydra_compose("config", overrides=[*free, *search], return_hydra_config=True)
        presets = dict(raw.hydra.runtime.choices)
        with open_dict(raw):
            del raw["hydra"]
        values: Any = OmegaConf.to_container(raw, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(str(error), overrides, config_dir)) from error
    except (YAMLError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        where = f" or a preset in {config_dir}" if config_dir else ""
        raise ConfigError(
            f"the settings{where} cannot be read: {' '.join(overrides)[:200] or 'a file of presets is no YAML'}"
        ) from error
    if not all(isinstance(values.get(group), dict) for group in ("data", "model", "optim", "trainer", "store")):
        raise ConfigError("data, model, optim, trainer and store are groups of settings: none of them can be null or a value")
    composed: dict[str, Any] = {**values, "presets": presets}
    return composed


_LOADING = ("init_from", "revision", "init_parts", "memory", "dropout", "copy")  # what init_from leaves to ModelConfig


def _for_pretrained(overrides: list[str], config_dir: Path | None, raw: dict[str, Any]) -> dict[str, Any]:
    """`model.init_from` brings the presets that fit pretrained weights, where no others are named.

    An experiment that starts from pretrained weights is taken as it is. One that does not, given `model.init_from=…` on top,
    loses its model and optimiser: its learning rate is for random weights, its shape is not the checkpoint's.
    """
    given = {o.lstrip("+").partition("=")[0] for o in overrides}
    shape = [f.name for f in dataclasses.fields(ModelConfig) if f.name not in _LOADING and f"model.{f.name}" in given]
    if shape:
        raise ConfigError(f"model.{shape[0]} comes from the checkpoint that model.init_from names: leave it out")
    added = {"model": "pretrained"} if "model.init_from" in given and "model" not in given else {}
    if raw["presets"]["optim"] != "finetune" and "optim" not in given:
        added["optim"] = "finetune"
    presets = [f"{group}={name}" for group, name in added.items()]
    if raw["data"]["corpus"]["path"] not in ("", "own") and not raw["presets"].get("experiment"):
        presets += [f"{name}={value}" for name, value in _OVER_A_CORPUS.items() if name not in given]
    if presets:
        raw = _compose([*presets, *overrides], config_dir)
    if "model.init_from" in given:
        own = [o for o in overrides if o.lstrip("+").startswith(("model.", "optim."))]
        alone = _compose([*presets, *own], config_dir)
        raw |= {group: alone[group] for group in added}
        raw["model"]["vocab_size"] = 0  # a preset's is another checkpoint's
    folder = Path(raw["model"]["init_from"]).expanduser()
    if folder.is_dir():  # however it was written, one folder is one folder
        raw["model"]["init_from"] = str(folder.resolve())
    return raw


def _with_pretrained_tokenizer(config: Config) -> Config:
    """Data for a pretrained model is cut by that model's tokenizer, and has a name of its own for it."""
    model, data = config.model, config.data
    if not model.init_from or data.tokenizer.path:
        return config
    tokenizer = dataclasses.replace(data.tokenizer, path=model.init_from, revision=model.revision)
    slug = re.sub(r"[^\w.-]+", "-", Path(model.init_from).name).strip("-")
    return dataclasses.replace(config, data=dataclasses.replace(data, tokenizer=tokenizer, name=f"{data.name}-{slug}"))


def override(base: Config, overrides: list[str], config_dir: Path | None = None) -> Config:
    """A run's own configuration with overrides on top: `group=preset` replaces a group, `key=value` a setting."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not overrides:
        return base
    composed = to_dict(compose(overrides, config_dir))  # also checks them all
    merged = OmegaConf.create(to_dict(base))
    try:
        for part in OverridesParser.create().parse_overrides([_spelled(o) for o in overrides]):
            key = part.key_or_group
            if key in GROUPS:
                changed = (key,) if key in composed else tuple(composed)
                for group in changed:
                    merged[group] = composed[group]
            else:
                OmegaConf.update(merged, key, part.value(), force_add=True)
        values: Any = OmegaConf.to_container(merged)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(str(error), overrides, config_dir)) from error
    config: Config = build(Config, values)
    return config
