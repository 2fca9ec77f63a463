"""Configuration: YAML under `conf/` composed by Hydra, checked against frozen dataclasses, one line per mistake.

Built on Hydra's compose API: `@hydra.main` and a Typer program exclude each other (hydra#409).
"""

import dataclasses
import difflib
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memgpt_cli.errors import ConfigError, did_you_mean
from memgpt_cli.schema import ModelConfig


def _choice(place: str, value: str, *allowed: str) -> None:
    """Raises ConfigError where a setting is none of the values it may have."""
    if value not in allowed:
        raise ConfigError(f"{place} is '{value}', expected one of {', '.join(allowed)}.{did_you_mean(value, allowed)}")


def _at_least(place: str, value: float, low: float) -> None:
    if value < low:
        raise ConfigError(f"{place} is {value}, expected at least {low}")


@dataclass(frozen=True)
class CleanConfig:
    """What is normalised before anything else; every change is counted."""

    unicode: str = "none"  # none | NFC | NFKC
    newlines: bool = True  # \r\n and \r become \n
    duplicates: bool = True  # drop an episode equal to an earlier one of its split
    min_chars: int = 0  # drop examples whose target is shorter
    max_chars: int = 0  # drop examples whose input or target is longer; 0 sets no limit

    def __post_init__(self) -> None:
        _choice("data.clean.unicode", self.unicode, "none", "NFC", "NFKC", "NFD", "NFKD")


@dataclass(frozen=True)
class TokenizerConfig:
    path: str = ""  # a file, folder or hub id to use; that of model.init_from, else trained from the data, where empty
    revision: str = ""  # of the hub's repository
    add: tuple[
        str, ...
    ] = ()  # tokens a pretrained tokenizer shall have besides its own, as in data.tokenizer.add=["#Person1#"]
    vocab_size: int = 1000
    sample_mb: int = 20  # text of the training split it is trained on, at most


@dataclass(frozen=True)
class LimitConfig:
    """Lengths in tokens, and what happens to what is longer: always counted, never silent."""

    input: int = 512
    target: int = 256
    entry: int = 128
    on_long_input: str = "truncate"  # truncate (keeps the end) | drop | stop
    on_long_target: str = "truncate"  # truncate (keeps the beginning) | drop | stop
    on_long_entry: str = "split"  # split | stop

    def __post_init__(self) -> None:
        for what in ("input", "target"):
            _choice(f"data.limits.on_long_{what}", getattr(self, f"on_long_{what}"), "truncate", "drop", "stop")
        _choice("data.limits.on_long_entry", self.on_long_entry, "split", "stop")
        for what in ("input", "target", "entry"):
            _at_least(f"data.limits.{what}", getattr(self, what), 4)


@dataclass(frozen=True)
class RenameConfig:
    """Renames the values of these relations consistently within an episode, so that copying is learnt, not lists."""

    relations: tuple[str, ...] = ()
    probability: float = 0.5


@dataclass(frozen=True)
class AugmentConfig:
    rename: RenameConfig = field(default_factory=RenameConfig)


@dataclass(frozen=True)
class ChatConfig:
    """How a conversation with a model of this data is set up."""

    user: str = "user"
    bot: str = "bot"
    turns: int = 2
    silence: str = ""  # what an empty line says
    lookup: str = ""  # a reply that begins so names values: facts whose heads have them all are recalled, nothing else is
    knowledge: str = (
        ""  # a file of facts that every conversation may look up: "head relation<TAB>tail" lines, bundled or a path
    )


@dataclass(frozen=True)
class DataConfig:
    name: str = "dialog_babi"
    source: str = "dialog_babi"
    path: str = "bundled"
    files: dict[str, Any] = field(default_factory=dict)  # split -> file names or globs below path
    hold_out: dict[str, Any] = field(default_factory=dict)  # split -> share of the episodes taken from `train`
    options: dict[str, Any] = field(default_factory=dict)
    clean: CleanConfig = field(default_factory=CleanConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    limits: LimitConfig = field(default_factory=LimitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    metrics: tuple[str, ...] = ("exact", "f1")
    on_error: str = "stop"  # stop | quarantine
    seed: int = 1


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = "adamw"  # adamw | adamw8bit (states in 8 bits, on CUDA) | adafactor
    lr: float = 2e-3
    memory_lr: float = 0.0  # of the parameters that read memory, new beside pretrained weights; lr where 0
    trainable: str = "all"  # all | memory | decoder (a frozen encoder: stored entries stay valid) | lora
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ("q", "v")  # of every attention: q, k, v, o; of every feed-forward: gate, up, down
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 200
    schedule: str = "cosine"  # cosine | constant | rsqrt
    final_lr: float = 0.05  # share of lr that the cosine ends at
    clip: float = 1.0
    label_smoothing: float = 0.0
    average: float = 0.999  # decay of the running average of the weights; 0 for none
    copy_weight: float = 0.3  # of the loss that asks the pointer to hold the target
    distil_weight: float = 0.1  # of the loss that teaches the scores what was read (ADist of Atlas, arXiv 2208.03299)

    def __post_init__(self) -> None:
        _choice("optim.schedule", self.schedule, "cosine", "constant", "rsqrt")
        _choice("optim.optimizer", self.optimizer, "adamw", "adamw8bit", "adafactor")
        _choice("optim.trainable", self.trainable, "all", "memory", "decoder", "lora")
        for target in self.lora_targets:
            _choice("optim.lora_targets", target, "q", "k", "v", "o", "gate", "up", "down")
        _at_least("optim.lora_rank", self.lora_rank, 1)


@dataclass(frozen=True)
class TrainerConfig:
    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    matmul: str = "medium"
    threads: int = 0
    max_steps: int = 3000
    max_minutes: float = 0.0  # 0 sets no limit
    batch_tokens: int = 16000
    gradient_checkpointing: bool = False  # keep only the layers' inputs: less memory, a third more time
    val_every: int = 250
    val_batches: int = 20
    patience: int = 0  # validations without a better score before training stops; 0 never stops early
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    log_every: int = 25

    def __post_init__(self) -> None:
        _choice("trainer.precision", self.precision, "32-true", "bf16-mixed", "16-mixed", "bf16-true")
        _choice("trainer.matmul", self.matmul, "highest", "high", "medium")
        _choice("trainer.accelerator", self.accelerator, "cpu", "gpu", "cuda", "auto")
        for name in ("devices", "max_steps", "batch_tokens", "val_every", "checkpoint_every", "keep_checkpoints", "log_every"):
            _at_least(f"trainer.{name}", getattr(self, name), 1)


@dataclass(frozen=True)
class StoreConfig:
    """The persistent memory (group `memory`): where it lives and how much of it is recalled."""

    store: str = ""  # a path; $MEMGPT_HOME/memory.sqlite where empty
    namespace: str = ""  # the user's name where empty
    recall: int = 32  # entries recalled for a reply


@dataclass(frozen=True)
class GenerateConfig:
    max_tokens: int = 96
    min_tokens: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        for name, low in (("max_tokens", 1), ("beams", 1), ("temperature", 0), ("top_k", 0), ("repetition_penalty", 0.01)):
            if getattr(self, name) < low:
                raise ConfigError(f"generate.{name} is {getattr(self, name)}, expected at least {low}")
        if self.beams > 1 and self.temperature > 0:
            raise ConfigError("generate.beams and generate.temperature exclude each other: beam search does not sample")


@dataclass(frozen=True)
class EvalConfig:
    split: str = "test"
    batch_tokens: int = 60000
    max_examples: int = 0  # 0 scores the whole split
    ablation_examples: int = 1000  # the same, at most, for memories other than `learned`
    memories: tuple[str, ...] = ("oracle", "learned", "shuffled", "empty")  # oracle where the data names evidence
    bootstrap: int = 1000


@dataclass(frozen=True)
class Config:
    """Everything a run needs; `config.json` in the run folder is this, complete."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    memory: StoreConfig = field(default_factory=StoreConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 1
    run: str = ""  # the run's name; made from the data's and the model's where empty
    preset: str = "tiny"


GROUPS = ("data", "model", "optim", "trainer", "memory", "experiment", "debug")


def conf_dir() -> Path:
    """The configuration folder: the repository's where both exist (an editable install may leave a stale copy)."""
    package = Path(__file__).parent
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration found at {package / 'conf'}: reinstall memgpt-cli")


_FREE_KEYS = ("data.options", "data.files", "data.hold_out")  # mappings whose keys depend on the source, which checks them


def compose(command: str, overrides: list[str], config_dir: Path | None = None) -> Config:
    """The configuration of a command with Hydra overrides; raises ConfigError with one line for a person."""
    raw = _compose(command, overrides, config_dir)
    if raw["model"].get("init_from"):
        raw = _for_pretrained(command, overrides, config_dir, raw)
    config: Config = build(Config, {k: v for k, v in raw.items() if k != "presets"} | {"preset": raw["presets"]["model"]})
    return _with_pretrained_tokenizer(config)


def _compose(command: str, overrides: list[str], config_dir: Path | None) -> dict[str, Any]:
    """Plain values as Hydra composes them, and under `presets` which preset of each group it took."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    search = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    try:
        free = [f"++{o}" if o.startswith(_FREE_KEYS) else o for o in overrides]
        ConfigStore.instance().store("schema", to_dict(Config()))  # every setting can be overridden, also those no YAML names
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            raw = hydra_compose(command, overrides=[*free, *search], return_hydra_config=True)
        presets = dict(raw.hydra.runtime.choices)
        with open_dict(raw):
            del raw["hydra"]
        values: Any = OmegaConf.to_container(raw, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(str(error), overrides, config_dir)) from error
    composed: dict[str, Any] = {**values, "presets": presets}
    return composed


_LOADING = ("init_from", "revision", "init_parts", "memory", "dropout", "copy")  # what init_from leaves to ModelConfig


def _for_pretrained(command: str, overrides: list[str], config_dir: Path | None, raw: dict[str, Any]) -> dict[str, Any]:
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
    raw = _compose(command, [*presets, *overrides], config_dir)
    if "model.init_from" in given:
        own = [o for o in overrides if o.lstrip("+").startswith(("model.", "optim."))]
        raw |= {group: _compose(command, [*presets, *own], config_dir)[group] for group in added}
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


def override(base: Config, command: str, overrides: list[str], config_dir: Path | None = None) -> Config:
    """A run's own configuration with overrides on top: `group=preset` replaces a group, `key=value` a setting."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not overrides:
        return base
    composed = to_dict(compose(command, overrides, config_dir))  # also checks them all
    merged = OmegaConf.create(to_dict(base))
    try:
        for part in OverridesParser.create().parse_overrides(overrides):
            key = part.key_or_group
            if key in GROUPS:
                changed = (key,) if key in composed else tuple(composed)
                for group in changed:
                    merged[group] = composed[group]
            else:
                OmegaConf.update(merged, key, part.value(), force_add=True)
        values: Any = OmegaConf.to_container(merged)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(str(error), overrides, config_dir)) from error
    config: Config = build(Config, values)
    return config


def build(kind: type, values: dict[str, Any], place: str = "") -> Any:
    """A (nested) frozen dataclass from plain values; every unknown key and wrong type is named in one ConfigError."""
    problems: list[str] = []
    result = _build(kind, values, place, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return result


def _build(kind: type, values: dict[str, Any], place: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{place}.{key}" if place else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            prefix = f"{place}." if place else ""
            hint = f" Did you mean '{prefix}{near[0]}'?" if near else f" Known: {', '.join(sorted(known))}."
            problems.append(f"'{name}' is not a setting.{hint}")
            continue
        found[key] = _convert(hints[key], value, name, problems)
    if problems:
        return None
    return kind(**found)


def _convert(kind: Any, value: Any, name: str, problems: list[str]) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            problems.append(f"'{name}' is {value!r}, expected a group of settings")
            return None
        return _build(typing.cast(type, kind), value, name, problems)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            problems.append(f"'{name}' is {value!r}, expected a list, as in '{name}=[a,b]'")
            return None
        return tuple(_convert(args[0], v, name, problems) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(f"'{name}' is {value!r}, expected a mapping, as in '{name}={{a:1}}'")
        return value
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 2e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and value is None:
        return ""
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        problems.append(f"'{name}' is {value!r}, expected {kind.__name__}")
    return value


def choices(group: str, config_dir: Path | None = None) -> list[str]:
    """The presets of a group, such as cpu, gpu4 of `trainer`."""
    folders = [conf_dir() / group] + ([config_dir / group] if config_dir else [])
    return sorted({p.stem for folder in folders if folder.is_dir() for p in folder.glob("*.yaml")})


def _explain(message: str, overrides: list[str], config_dir: Path | None) -> str:
    """One line from what Hydra or OmegaConf said."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if "=" not in override and not override.startswith("~"):
            groups = [g for g in GROUPS if override in choices(g, config_dir)]
            hint = f" Did you mean '{groups[0]}={override}'?" if groups else ""
            return f"'{override}' is no setting: expected key=value, as in 'trainer=cpu'.{hint}"
        if key in GROUPS and value and value not in choices(key, config_dir):
            names = choices(key, config_dir)
            near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
            hint = f" Did you mean '{key}={near[0]}'?" if near else f" Known: {', '.join(names)}."
            return f"'{override}': there is no {key} preset '{value}'.{hint}"
    if (
        "Lexer" in message
        or "mismatched input" in message
        or "extraneous input" in message
        or "no viable alternative" in message
    ):
        bad = next(
            (o for o in overrides if o in message), next((o for o in overrides if re.search(r"[<>|!?*;]", o)), overrides[0])
        )
        key, _, value = bad.partition("=")
        return f"'{bad}' cannot be read: quote the value inside the argument, as in '{key}=\"{value}\"'"
    missing = re.search(r"Could not override '([^']+)'", message)
    if missing:
        return unknown_key(missing.group(1))
    return " ".join(message.split("\n")[0].split())


_OTHER_NAMES = {
    "learning_rate": "optim.lr", "batch_size": "trainer.batch_tokens", "epochs": "trainer.max_steps", "max_epochs": "trainer.max_steps",
    "steps": "trainer.max_steps", "gpus": "trainer.devices", "layers": "model.n_encoder_layers", "vocab_size": "data.tokenizer.vocab_size",
}  # fmt: skip


def unknown_key(key: str) -> str:
    every = all_keys()
    if key.rsplit(".", 1)[-1] in _OTHER_NAMES:
        return f"'{key}' is not a setting. Did you mean '{_OTHER_NAMES[key.rsplit('.', 1)[-1]]}'?"
    near = difflib.get_close_matches(key, every, n=1, cutoff=0.5)
    last = key.rsplit(".", 1)[-1]
    by_name = [k for k in every if k.rsplit(".", 1)[-1] == last]
    best = by_name or near or difflib.get_close_matches(last, [k.rsplit(".", 1)[-1] for k in every], n=1, cutoff=0.6)
    if best and best[0] not in every:
        best = [k for k in every if k.endswith("." + best[0])]
    hint = f" Did you mean '{best[0]}'?" if best else " See memgpt config."
    return f"'{key}' is not a setting.{hint}"


def all_keys(kind: Any = Config, place: str = "") -> list[str]:
    """Every setting by its dotted name."""
    keys: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        dotted = f"{place}.{name}" if place else name
        keys += all_keys(hint, dotted) if dataclasses.is_dataclass(hint) else [dotted]
    return keys


def to_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def home() -> Path:
    """Where personal state lives: $MEMGPT_HOME, by default ~/.local/share/memgpt-cli (~/.memgpt is Letta's)."""
    return Path(os.environ.get("MEMGPT_HOME") or Path.home() / ".local" / "share" / "memgpt-cli")
