"""A training run: data, model, Lightning trainer; resumed where it was left."""

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from memgpt_cli import hub
from memgpt_cli.checkpoint import load_pretrained, load_tree, save_model
from memgpt_cli.checkpoint.runs import ADAPTER, CHECKPOINTS, HISTORY, MODEL, PEFT, RUN
from memgpt_cli.checkpoint.weights import mismatches
from memgpt_cli.config import Config, to_dict
from memgpt_cli.data.dataset import NOTED
from memgpt_cli.errors import BusyError, CheckpointError, TrainingStopped, UsageError
from memgpt_cli.files import check_marked, check_own, locked, new_folder, remove_folder, settle, settle_inside, write_text
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import ModelConfig
from memgpt_cli.tokenizer import Tokenizer, load_tokenizer, same_words, word_parts
from memgpt_cli.training.batches import EpisodeData
from memgpt_cli.training.callbacks import (
    History,
    Interrupted,
    KeepCheckpoints,
    SafeCheckpointIO,
    ShowProgress,
    StopAfter,
    StopGently,
    checkpoint_folders,
)  # fmt: skip
from memgpt_cli.training.hardware import check_devices, tune_cpu
from memgpt_cli.training.module import MemoryModule
from memgpt_cli.training.trainable import choose_trainable, make_optimizer, merged_weights, save_adapter

SETTINGS = "config.json"


def make_model(config: Config, tokenizer: Tokenizer) -> MemoryTransformer:
    """A new model, or a pretrained one with memory beside it; what is trained of it is chosen by `optim.trainable`."""
    torch.manual_seed(config.seed)
    if config.data.tokenizer.add and config.optim.trainable != "all":
        raise UsageError(
            f"optim.trainable={config.optim.trainable} keeps the embedding, so the tokens of data.tokenizer.add would mean nothing: "
            "train them once with optim.trainable=all"
        )
    shape = replace(config.model, vocab_size=len(tokenizer))
    if config.model.init_from:
        _check_same_pieces(config.model, tokenizer)
        model = load_pretrained(config.model.init_from, shape).train()
    else:
        model = MemoryTransformer(shape)
    if model.pointer is not None:
        model.pointer.spell(word_parts(tokenizer))
    if model.retriever.words is not None:
        model.retriever.words.spell(same_words(tokenizer))
    model.encoder.checkpointing = model.decoder.checkpointing = config.trainer.gradient_checkpointing
    return choose_trainable(model, config.optim)


def _check_same_pieces(model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raises UsageError where the data was cut by another tokenizer than the pretrained weights know."""
    own = load_tokenizer(hub.fetch(model.init_from, model.revision, weights=False))
    if any(own.piece(i) != tokenizer.piece(i) for i in range(0, len(own), max(1, len(own) // 500))):
        raise UsageError(
            f"the data was cut by another tokenizer than {model.init_from} was trained with: leave data.tokenizer.path empty"
        )


def _differences(old: dict[str, Any], new: dict[str, Any], place: str = "") -> list[str]:
    out = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{place}.{key}" if place else key
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += _differences(a, b, name)
        elif a != b:
            out.append(f"{name} {a} -> {b}")
    return out


# settings that may change between a run and its resumption without making it another run
_FREE = ("trainer.devices", "trainer.strategy", "trainer.accelerator", "trainer.max_steps", "trainer.patience", "trainer.max_minutes", "trainer.threads", "trainer.log_every", "trainer.keep_checkpoints", "store.", "inference.", "generate.", "eval.", "data.chat.", "data.path", "data.metrics", "given")  # fmt: skip


def is_first_process() -> bool:
    """Whether this is the process that writes the run; those that Lightning or torchrun start beside it write nothing."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def prepare_run(config: Config, run: Path, fresh: bool, data_key: str = "", given: Sequence[str] = ()) -> Path | None:
    """The checkpoint to go on from, if any. `given` are the settings that were typed, noted beside what became of them.

    Raises UsageError where the run was started with other settings, or the folder is no run of ours: nothing in it is
    touched then.
    """
    settings = json.loads(json.dumps(to_dict(config))) | {"data_key": data_key, "given": [*given]}
    file, advice = run / SETTINGS, "add run=NAME for another run"
    for name in (SETTINGS, HISTORY):
        if (run / name).exists() and not (run / name).is_file():
            raise UsageError(f"{run / name} is no file: {advice}")
    if not is_first_process():
        return next(iter(checkpoint_folders(run)), None)
    settle(run)
    if check_marked(run, RUN, advice) and RUN.marks(run):
        settle_inside(run)
        settle_inside(run / CHECKPOINTS)
    if fresh:
        remove_folder(run, RUN, advice)
    check_own(run / "model", MODEL, advice)  # training replaces these two
    check_own(run / ADAPTER, PEFT, advice)
    if file.is_file() and (checkpoint_folders(run) or (run / "model").is_dir()):
        changed = [d for d in _differences(json.loads(file.read_text()), settings) if not d.startswith(_FREE)]
        if changed:
            shown = "; ".join(changed[:5])
            raise UsageError(
                f"run '{run.name}' was started with other settings ({shown}): add run=NAME for a new run, or --fresh to start over"
            )
    text = json.dumps(settings, ensure_ascii=False, indent=1)
    if file.is_file():
        write_text(file, text)
    else:
        with new_folder(run, RUN, advice) as partial:
            (partial / SETTINGS).write_text(text, encoding="utf-8")
    return next(iter(checkpoint_folders(run)), None)


def train(
    config: Config, data_folder: Path, run: Path, console: Console, fresh: bool = False, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains, or goes on training, into the run folder; returns the last scores.

    Raises UsageError for devices that are not there, BusyError where another process trains this run, and TrainingStopped
    after Ctrl-C or SIGTERM (the state is saved).
    """

    def busy(process: str) -> None:
        raise BusyError(f"run '{run.name}' is being trained by process {process}: wait for it, or add run=NAME for another run")

    if not is_first_process():
        return _train(config, data_folder, run, console, fresh, given)
    with locked(run, busy):
        return _train(config, data_folder, run, console, fresh, given)


def _train(config: Config, data_folder: Path, run: Path, console: Console, fresh: bool, given: Sequence[str]) -> dict[str, Any]:
    check_devices(config.trainer)
    if config.model.init_from and config.trainer.precision == "16-mixed":
        raise UsageError("T5's activations overflow in trainer.precision=16-mixed: type bf16-mixed or 32-true")
    if config.model.copy and config.trainer.precision == "bf16-true":
        raise UsageError(
            "the pointer adds in 32 bits, trainer.precision=bf16-true has none: type bf16-mixed, or model.copy=false"
        )
    tune_cpu(config.trainer)
    _quiet()
    data = EpisodeData(data_folder, config)
    model = make_model(config, data.tokenizer)
    make_optimizer(model, config.optim)  # says here what cannot be had, before a run is begun or begun anew
    resumed = prepare_run(config, run, fresh, data.manifest["key"], given)
    module = MemoryModule(model, config)
    save_best = _saver(config, data, run)
    keep = KeepCheckpoints(run, config.trainer.checkpoint_every, config.trainer.keep_checkpoints, save_best)
    stop = StopGently(keep)
    trainer = _make_trainer(
        config, run, console, [ShowProgress(console, stop.closed), *([data.nearest] if data.nearest else []), keep, stop]
    )
    if trainer.is_global_zero:
        _say_what_is_trained(console, run, model, data, resumed)
    if resumed and _step_of(resumed) >= config.trainer.max_steps:
        console.print(
            f"{run} is trained already ({config.trainer.max_steps} steps): raise trainer.max_steps, or add run=NAME or --fresh to train anew"
        )
        return {}
    if resumed:
        check_state(resumed, module)
    _fit(trainer, module, data, resumed, run)
    if trainer.global_step and not keep.has(trainer.global_step):
        keep.save(trainer)
    if trainer.global_step % config.trainer.val_every:
        trainer.validate(module, data, verbose=False)  # the last steps count too
    if not (run / "model").is_dir() and trainer.is_global_zero:
        save_best(module, {"step": trainer.global_step})
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _saver(config: Config, data: EpisodeData, run: Path) -> Callable[[MemoryModule, dict[str, Any]], None]:
    """What saves the best model: its weights, and notes of its scores, its data, and what it has seen of them."""
    seen = data.manifest["statistics"].get("train", {})
    notes: dict[str, Any] = {"data": str(data.folder), "data_key": data.manifest["key"]}
    notes["seen"] = {name: seen.get(name) for name in NOTED}
    if "corpus" in data.manifest and not config.data.corpus.own:
        notes["corpus"] = data.manifest["corpus"]["entries"]
    if config.model.init_from:  # the hub's cache names a snapshot after its commit
        notes["init_from"] = hub.fetch(config.model.init_from, config.model.revision, weights=False).resolve().name

    def save(trained: MemoryModule, scores: dict[str, Any]) -> None:
        best = trained.best_guess
        own = replace(config, model=trained.model.config)
        save_model(run / "model", merged_weights(best), data.tokenizer, own, {**scores, **notes})
        if config.optim.trainable == "lora":
            save_adapter(best, config.optim, run / ADAPTER)

    return save


def _say_what_is_trained(
    console: Console, run: Path, model: MemoryTransformer, data: EpisodeData, resumed: Path | None
) -> None:
    size = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    partly = f" ({trained / 1e6:.2f} M of them trained)" if trained < size else ""
    at = f"resumed at step {_step_of(resumed)}" if resumed else "from the beginning"
    examples = data.manifest["statistics"]["train"]["examples"]
    console.print(f"training {run.name}: {size / 1e6:.2f} M parameters{partly}, {examples:,} examples, {at}")


def _fit(trainer: L.Trainer, module: MemoryModule, data: EpisodeData, resumed: Path | None, run: Path) -> None:
    try:
        trainer.fit(module, data, ckpt_path=str(resumed) if resumed else None)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        if resumed and trainer.global_step <= _step_of(resumed):  # nothing has been trained yet: the checkpoint's own fault
            raise CheckpointError(
                f"{resumed} cannot be resumed from ({type(error).__name__}): move it away, and the one before it serves"
            ) from error
        raise
    except Interrupted as error:
        stopped = TrainingStopped(f"stopped at step {error.step}, saved in {run}: the same command goes on from there")
        stopped.exit_code = 128 + error.signal
        raise stopped from None


def check_state(folder: Path, module: MemoryModule) -> None:
    """Raises CheckpointError where a checkpoint is not one of this training: damaged, tampered with, or diverged."""
    tree = load_tree(folder)
    wrong = "is damaged, or of another training: move it away, and the one before it serves"
    kinds = {"state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), kind) for name, kind in kinds.items()):
        raise CheckpointError(f"{folder} {wrong}")
    weights = {name: value for name, value in tree["state_dict"].items() if isinstance(value, torch.Tensor)}
    if problems := mismatches(module.state_dict(), weights):
        raise CheckpointError(f"{folder} {wrong} ({problems})")
    if broken := [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(f"{folder} holds what is no number in {broken[0]}: the training has diverged; move it away")
    if tree.get("global_step") != int(folder.name[5:]):
        raise CheckpointError(f"{folder} is of step {tree.get('global_step')}: it has been renamed")


def _make_trainer(config: Config, run: Path, console: Console, callbacks: Sequence[L.Callback]) -> L.Trainer:
    settings = config.trainer
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        precision=settings.precision,  # type: ignore[arg-type]
        max_steps=settings.max_steps,
        max_epochs=-1,
        gradient_clip_val=config.optim.clip or None,
        val_check_interval=min(settings.val_every, settings.max_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(str(run), name="", version="logs"),
        callbacks=[
            StopAfter(settings.max_minutes),
            History(run, settings.log_every),
            *callbacks,
        ],
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=settings.log_every,
        use_distributed_sampler=False,
    )


def _quiet() -> None:
    def of_a_thread(error: threading.ExceptHookArgs) -> None:
        if not issubclass(error.exc_type, OSError):  # TensorBoard's writer on a full disk: the next checkpoint says it
            threading.__excepthook__(error)

    threading.excepthook = of_a_thread
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*num_workers.*")
