"""Callbacks: checkpoints that survive anything, a history with a plotted curve, and a progress bar."""

import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memgpt_cli.checkpoint import load_tree, save_tree
from memgpt_cli.checkpoint.runs import CHECKPOINTS, CURVE, HISTORY, STATE
from memgpt_cli.errors import TrainingStopped
from memgpt_cli.files import remove_folder, write_text, writing
from memgpt_cli.training.module import MemoryModule


def _number(value: Any, otherwise: float | None) -> float | None:
    return otherwise if value is None else float(value)


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as safetensors + JSON folders."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_tree(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        tree: dict[str, Any] = load_tree(Path(path))
        return tree

    def remove_checkpoint(self, path: Any) -> None:
        remove_folder(Path(path), STATE)


def checkpoint_folders(run: Path) -> list[Path]:
    """Whole checkpoints of a run, the newest first."""
    found = (p for p in (run / CHECKPOINTS).glob("step-*") if re.fullmatch(r"step-\d{8}", p.name) and STATE.marks(p))
    return sorted(found, reverse=True)


class KeepCheckpoints(L.Callback):
    """Saves every `every` steps and at the end; keeps the last few. The best model by validation loss goes to `model/`."""

    def __init__(self, run: Path, every: int, keep: int, save_best: Callable[[MemoryModule, dict[str, Any]], None]) -> None:
        self.run, self.every, self.keep, self.save_best = run, every, keep, save_best
        self.best: float | None = None
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = _number(state["best"], None), int(state["waited"])

    def _place(self, step: int) -> Path:
        return self.run / CHECKPOINTS / f"step-{step:08d}"

    def has(self, step: int) -> bool:
        return self._place(step).exists()

    def save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self._place(trainer.global_step))
        if trainer.is_global_zero:
            for old in checkpoint_folders(self.run)[self.keep :]:
                remove_folder(old, STATE, "move it out of the run")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        validates = trainer.global_step % int(trainer.val_check_batch or 1) == 0
        if trainer.global_step % self.every == 0 and not validates:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Judges the model, then saves: a resumed run knows its best score and its patience."""
        loss = float(trainer.callback_metrics["val/loss"])
        if not math.isfinite(loss):
            raise TrainingStopped(
                f"the validation loss at step {trainer.global_step} is {loss}: the training has diverged, nothing of it is kept since "
                "the last good validation. Lower optim.lr, or raise optim.warmup_steps, and train anew (--fresh)"
            )
        if self.best is None or loss < self.best:
            self.best, self.waited = loss, 0
            if trainer.is_global_zero:
                scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
                self.save_best(module, {"step": trainer.global_step, **scores})
        else:
            self.waited += 1
        patience = module.config.trainer.patience
        if patience and self.waited >= patience:
            trainer.should_stop = True
        if trainer.global_step % self.every == 0 and trainer.state.fn == "fit":
            self.save(trainer)


class History(L.Callback):
    """Writes what happened to history.jsonl and draws it."""

    def __init__(self, run: Path, every: int) -> None:
        self.run, self.every = run, every

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Forgets what a killed run wrote past its last checkpoint: those steps happen again."""
        if trainer.is_global_zero and (self.run / HISTORY).is_file():
            rows = [r for r in read_history(self.run) if r["step"] <= trainer.global_step]
            write_text(self.run / HISTORY, "".join(json.dumps(r) + "\n" for r in rows))

    def write(self, trainer: L.Trainer, row: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            with open(self.run / HISTORY, "a") as file:
                file.write(json.dumps({"step": trainer.global_step, **row}) + "\n")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        step = trainer.global_step
        if step % self.every == 0 or step <= 10:
            self.write(trainer, module.latest | {"lr": trainer.optimizers[0].param_groups[0]["lr"]})
            if trainer.logger:
                trainer.logger.log_metrics({f"train/{k}": v for k, v in module.latest.items()}, step)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.write(trainer, {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            draw_curve(self.run)


def read_history(run: Path) -> list[dict[str, Any]]:
    rows = []
    file = run / HISTORY
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
            sound = isinstance(row, dict) and type(row.get("step")) is int
            if sound and all(isinstance(value, int | float) and abs(value) < 1e300 for value in row.values()):
                rows.append(row)
        except (ValueError, RecursionError, OverflowError):  # the line a killed run was writing, or what somebody made of it
            continue
    return rows


def draw_curve(run: Path) -> Path | None:
    """The learning curve as a PNG; None where there is nothing to draw yet."""
    if not (run / HISTORY).is_file():
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    rows = read_history(run)
    train = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    valid = [(r["step"], r["val/loss"], r["val/exact"]) for r in rows if "val/loss" in r and "val/exact" in r]
    if not train:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    axes.plot(*zip(*train, strict=True), color="#4878a8", linewidth=1, label="training loss")
    if valid:
        steps, losses, exact = zip(*valid, strict=True)
        axes.plot(steps, losses, color="#c04848", marker="o", markersize=3, label="validation loss")
        right = axes.twinx()
        right.plot(steps, [100 * e for e in exact], color="#489048", marker=".", label="validation exact (%)")
        right.set_ylabel("exact targets (%)")
        right.set_ylim(0, 100)
    axes.set(xlabel="step", ylabel="loss per token (nats)", yscale="log", title=run.name)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(alpha=0.3)
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.87), fontsize=8)
    figure.tight_layout()
    with writing(run / CURVE, binary=True) as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)
    return run / CURVE


class ShowProgress(L.Callback):
    """A bar on a terminal; off it, a plain line now and then."""

    def __init__(self, console: Console, closed: Callable[[], None] = lambda: None, every_seconds: float = 15.0) -> None:
        self.console, self.closed, self.every = console, closed, every_seconds
        self.bar: Progress | None = None

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.began = self.said = time.monotonic()
        self.tokens, self.valid, self.first = 0.0, "", trainer.global_step
        if self.console.is_terminal and trainer.is_global_zero:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self.bar = Progress(
                *columns, TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=self.console
            )
            self.task = self.bar.add_task("training", total=trainer.max_steps, completed=trainer.global_step, note="")
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        now = time.monotonic()
        self.tokens += module.latest["tokens"] * trainer.world_size
        speed = self.tokens / max(1e-9, now - self.began)
        note = f"loss {module.latest['loss']:.3f} · {speed:,.0f} target tokens/s{self.valid}"
        if self.bar:
            self.bar.update(self.task, completed=trainer.global_step, note=note)
        elif trainer.is_global_zero and now - self.said >= self.every:
            left = (now - self.began) / (trainer.global_step - self.first) * (trainer.max_steps - trainer.global_step)
            self._say(f"step {trainer.global_step}/{trainer.max_steps} · {note} · {left / 60:.0f} min left")
            self.said = now

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        scores = {k: float(v) for k, v in trainer.callback_metrics.items()}
        loss, exact, renamed = scores["val/loss"], 100 * scores["val/exact"], scores.get("val/renamed")
        self.valid = f" · valid {loss:.4f}, {exact:.1f} % exact"
        others = "" if renamed is None else f", with names never seen {100 * renamed:.2f} %"
        self._say(f"step {trainer.global_step}: validation loss {loss:.4f}, exact {exact:.2f} %{others}")

    def _say(self, text: str) -> None:
        try:
            self.console.print(text, highlight=False)
        except OSError:
            self.closed()

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None
        try:
            sys.stdout.flush()
        except OSError:
            self.closed()


class StopAfter(L.Callback):
    """Ends training after so many minutes in all, resumed time included; all processes stop at the same step."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.spent = minutes, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent + time.monotonic() - self.began}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = float(state["spent"])

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self.began = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        late = bool(self.minutes) and self.spent + time.monotonic() - self.began > 60 * self.minutes
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(trainer.should_stop or late, all=False)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: training ended after `step`, which is saved."""

    def __init__(self, signal: int, step: int) -> None:
        self.signal, self.step = signal, step


class StopGently(L.Callback):
    """Ctrl-C, SIGTERM and a closed terminal end training after the current step, saved as it is: nothing is validated, so that the resumed
    run is the run that was not interrupted. A second one ends it at once. To be the last callback.
    """

    def __init__(self, keep: KeepCheckpoints) -> None:
        self.keep, self.caught = keep, 0
        self._before: dict[int, Any] = {}

    def closed(self) -> None:
        """The output cannot be written any more: whoever read it has gone."""
        self.caught = self.caught or signal.SIGPIPE

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                self._before[number] = signal.signal(number, self._catch)
            except ValueError:  # not the main thread: signals are not ours
                return

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if trainer.global_step % int(trainer.val_check_batch or 1):  # else after the validation that is due
            self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn == "fit":
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        done = trainer.global_step >= trainer.max_steps > 0
        if trainer.strategy.reduce_boolean_decision(bool(self.caught), all=False) and not done:
            if not self.keep.has(trainer.global_step):
                self.keep.save(trainer)
            raise Interrupted(self.caught or signal.SIGTERM, trainer.global_step)
