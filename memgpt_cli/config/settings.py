"""Every setting, as frozen dataclasses that check themselves, and the way from plain values to them."""

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from typing import Any

from memgpt_cli.config.data import MANY, DataConfig, choice
from memgpt_cli.errors import ConfigError
from memgpt_cli.files import plain_name
from memgpt_cli.schema import ModelConfig, check_bounds


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = (
        "adamw"  # adamw | muon (matrices orthogonalised, the rest AdamW) | adamw8bit (states in 8 bits, on CUDA) | adafactor
    )
    lr: float = 2e-3  # the highest learning rate
    memory_lr: float = 0.0  # of the parameters that read memory, new beside pretrained weights; lr where 0
    embedding_lr: float = 0.0  # of the embedding, whose rows have few gradients; lr where 0
    trainable: str = "all"  # all | memory | decoder (a frozen encoder: stored entries stay valid) | lora
    lora_rank: int = 16  # of the adapters
    lora_alpha: int = 32  # scale of the adapters, over their rank
    lora_dropout: float = 0.0  # before the adapters
    lora_targets: tuple[str, ...] = ("q", "v")  # of every attention: q, k, v, o; of every feed-forward: gate, up, down
    betas: tuple[float, float] = (0.9, 0.98)  # of AdamW
    eps: float = 1e-8  # of AdamW
    weight_decay: float = 0.01  # of matrices
    warmup_steps: int = 200  # until the learning rate is at its highest
    schedule: str = "cosine"  # cosine | constant | rsqrt
    final_lr: float = 0.05  # share of lr that the cosine ends at
    clip: float = 1.0  # largest norm of the gradient; 0 clips nothing
    label_smoothing: float = 0.0  # share of the target that is spread over the vocabulary
    average: float = 0.999  # decay of the running average of the weights; 0 for none
    evidence_weight: float = 0.0  # of the loss that asks the scores for the named evidence; fades to 0 by the last step
    copy_weight: float = 0.3  # of the loss that asks the pointer to hold the target
    distil_weight: float = 0.1  # of the loss that teaches the scores what was read (ADist of Atlas, arXiv 2208.03299)

    def __post_init__(self) -> None:
        choice("optim.schedule", self.schedule, "cosine", "constant", "rsqrt")
        choice("optim.optimizer", self.optimizer, "adamw", "muon", "adamw8bit", "adafactor")
        choice("optim.trainable", self.trainable, "all", "memory", "decoder", "lora")
        for target in self.lora_targets:
            choice("optim.lora_targets", target, "q", "k", "v", "o", "gate", "up", "down")
        check_bounds(
            "optim", self, lora_rank=(1, 65_536), lora_alpha=(1, MANY), lora_dropout=(0, 0.999), warmup_steps=(0, MANY)
        )
        check_bounds("optim", self, lr=(0, 1e3), memory_lr=(0, 1e3), embedding_lr=(0, 1e3), weight_decay=(0, 1e3))
        check_bounds("optim", self, eps=(0, 1), final_lr=(0, 1), clip=(0, 1e9))
        check_bounds("optim", self, label_smoothing=(0, 1), average=(0, 1), copy_weight=(0, 1e3), distil_weight=(0, 1e3))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas is {list(self.betas)}, expected two numbers from 0 to below 1")


@dataclass(frozen=True)
class TrainerConfig:
    accelerator: str = "cpu"  # cpu | gpu | cuda | auto
    devices: int = 1  # processes, one a GPU
    strategy: str = "auto"  # auto | ddp | ddp_find_unused_parameters_…
    precision: str = "32-true"  # 32-true | bf16-mixed | bf16-true | 16-mixed
    matmul: str = "highest"  # precision of fp32 matrix products: highest | high | medium (bf16 where the processor has it)
    threads: int = 0  # of a CPU; 0 for all
    max_steps: int = 3000  # of the optimiser
    max_minutes: float = 0.0  # 0 sets no limit
    batch_tokens: int = 16000  # tokens of a batch, encoded and written, padding included
    gradient_checkpointing: bool = False  # keep only the layers' inputs: less memory, a third more time
    val_every: int = 250  # steps between validations
    val_batches: int = 20  # batches of a validation; 0 for the whole split
    patience: int = 0  # validations without a better score before training stops; 0 never stops early
    refresh_every: int = 250  # steps after which the model searches its corpus anew for entries that are hard to tell apart
    refresh_beside: bool = False  # train on while it searches: with cores that trainer.threads leaves free, or on a GPU
    checkpoint_every: int = 250  # steps between checkpoints
    keep_checkpoints: int = 2  # the last ones
    log_every: int = 25  # steps between lines of history.jsonl

    def __post_init__(self) -> None:
        choice("trainer.precision", self.precision, "32-true", "bf16-mixed", "16-mixed", "bf16-true")
        choice("trainer.matmul", self.matmul, "highest", "high", "medium")
        choice(
            "trainer.strategy",
            self.strategy,
            "auto",
            "ddp",
            "ddp_find_unused_parameters_false",
            "ddp_find_unused_parameters_true",
        )
        choice("trainer.accelerator", self.accelerator, "cpu", "gpu", "cuda", "auto")
        check_bounds("trainer", self, devices=(1, 4096), threads=(0, 1024), max_steps=(1, MANY), batch_tokens=(1, 1 << 27))
        check_bounds(
            "trainer",
            self,
            refresh_every=(1, MANY),
            val_every=(1, MANY),
            val_batches=(0, MANY),
            checkpoint_every=(1, MANY),
            log_every=(1, MANY),
        )
        check_bounds("trainer", self, keep_checkpoints=(1, MANY), patience=(0, MANY), max_minutes=(0, 1e9))


@dataclass(frozen=True)
class StoreConfig:
    """Where entries last, and how many of them are recalled."""

    url: str = ""  # a path, sqlite:///PATH or postgresql://…; $MEMGPT_HOME/memory.sqlite where empty
    namespace: str = ""  # whose memory; the user's name where empty
    key_env: str = ""  # the environment variable that holds the key of an encrypted store; not encrypted where empty
    recall: int = (
        -1
    )  # entries recalled for an input; -1: as many as the examples it was trained on saw (19 of 20 of them), at most 32

    def __post_init__(self) -> None:
        check_bounds("store", self, recall=(-1, 65_536))


@dataclass(frozen=True)
class InferenceConfig:
    cache_mb: int = 256  # of the token states of entries that are kept in RAM (or on the GPU) while a session lasts

    def __post_init__(self) -> None:
        check_bounds("inference", self, cache_mb=(0, 1 << 20))


@dataclass(frozen=True)
class GenerateConfig:
    max_tokens: int = 96  # of an answer
    min_tokens: int = 0  # of an answer, its end not counted
    beams: int = 1  # 1 searches greedily or samples
    length_penalty: float = 1.0  # beams are ranked by log-probability / length ** this
    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # sample from the likeliest so many tokens; 0 from all
    top_p: float = 1.0  # sample from the likeliest tokens that hold this share
    min_p: float = 0.0  # sample from tokens at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # of tokens said before (CTRL); 1 for none
    no_repeat_ngram: int = 0  # n-grams of this size are not said twice; 0 for any
    seed: int = 1  # of sampling

    def __post_init__(self) -> None:
        check_bounds(
            "generate", self, max_tokens=(1, 65_536), min_tokens=(0, 65_536), beams=(1, 256), length_penalty=(-100, 100)
        )
        if 0 < self.temperature < 1e-3:
            raise ConfigError(f"generate.temperature is {self.temperature}, expected 0 (greedy), or at least 0.001")
        check_bounds("generate", self, temperature=(0, 1000), top_k=(0, MANY), top_p=(0, 1), min_p=(0, 1), seed=(0, MANY))
        check_bounds("generate", self, repetition_penalty=(0.01, 1000), no_repeat_ngram=(0, 65_536))
        if self.beams > 1 and self.temperature > 0:
            raise ConfigError("generate.beams and generate.temperature exclude each other: beam search does not sample")


@dataclass(frozen=True)
class EvalConfig:
    split: str = "test"  # train, valid or test
    batch_tokens: int = 60000  # tokens of a batch
    max_examples: int = 0  # 0 scores the whole split
    ablation_examples: int = 1000  # the same, at most, for memories other than `learned`
    memories: tuple[str, ...] = ("oracle", "learned", "shuffled", "empty")  # oracle where the data names evidence
    corpus_sizes: tuple[int, ...] = (
        1000,
        10_000,
        100_000,
    )  # entries of a store that is read, for the ablation's examples; then all
    bootstrap: int = 1000  # resamples of a confidence interval; 0 for none

    def __post_init__(self) -> None:
        check_bounds("eval", self, batch_tokens=(1, 1 << 27), max_examples=(0, MANY), ablation_examples=(0, MANY))
        check_bounds("eval", self, bootstrap=(0, 1_000_000))
        plain_name(self.split, "eval.split")
        if any(size < 1 for size in self.corpus_sizes):
            raise ConfigError(f"eval.corpus_sizes is {list(self.corpus_sizes)}, expected numbers of entries, each at least 1")


@dataclass(frozen=True)
class Config:
    """Everything a run needs; `config.json` in the run folder is this, complete."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 1  # of the weights, the batches and the dropout
    run: str = ""  # the run's name; made from the data's and the model's where empty
    preset: str = "tiny"  # the model preset it was made from

    def __post_init__(self) -> None:
        if self.run:
            plain_name(self.run, "run")
        check_bounds("", self, seed=(0, MANY))


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


def all_keys(kind: Any = Config, place: str = "") -> list[str]:
    """Every setting by its dotted name."""
    keys: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        dotted = f"{place}.{name}" if place else name
        keys += all_keys(hint, dotted) if dataclasses.is_dataclass(hint) else [dotted]
    return keys


def to_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)
