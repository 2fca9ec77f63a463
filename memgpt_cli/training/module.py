"""The LightningModule: one step, one validation, one optimiser. Everything else is elsewhere."""

import copy
import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from memgpt_cli.config import Config
from memgpt_cli.model import Batch, MemoryTransformer
from memgpt_cli.model.retrieval import Choice
from memgpt_cli.training.losses import training_sums
from memgpt_cli.training.trainable import make_optimizer


def learning_rate(step: int, config: Config) -> float:
    """Share of optim.lr at a step: linear warm-up, then cosine, constant or 1/sqrt."""
    optim, total = config.optim, config.trainer.max_steps
    warmup = min(optim.warmup_steps, max(1, total // 2))
    if step < warmup:
        return (step + 1) / warmup
    if optim.schedule == "constant":
        return 1.0
    if optim.schedule == "rsqrt":
        return math.sqrt(warmup / (step + 1))
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return optim.final_lr + (1 - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def read_entropy(choice: Choice) -> float:
    """Mean entropy in nats of the scores over what each example sees: near 0 when retrieval is sure, log n when blind."""
    with torch.no_grad():
        logp = choice.scores.masked_fill(~choice.visible, -1e4).log_softmax(-1)
        several = choice.visible.sum(-1) > 1
        return float(((-(logp.exp() * logp).sum(-1)) * several).sum() / several.sum().clamp(min=1))


class MemoryModule(L.LightningModule):
    def __init__(self, model: MemoryTransformer, config: Config) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.average: MemoryTransformer | None = None
        if config.optim.average:
            self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.latest: dict[str, float] = {}

    @property
    def best_guess(self) -> MemoryTransformer:
        """The weights to validate and to keep: the running average where there is one."""
        return self.average if self.average is not None else self.model

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        step = self.global_step
        # a step's randomness depends on nothing but its number: a resumed run is the same run
        torch.manual_seed(hash((self.config.seed, step, self.global_rank)) & 0x7FFFFFFF)
        sizes = self.config.model.memory.sizes or (0,)
        context = self.model.read(batch, top_k=sizes[step % len(sizes)])
        scored = self.model.target_logprobs(batch, context, smoothing=self.config.optim.label_smoothing > 0)
        sums = training_sums(batch, context, scored, self.config.optim.label_smoothing)
        counts, world = sums.counts, self.trainer.world_size
        if world > 1:
            counts = counts.clone()
            torch.distributed.all_reduce(counts)
        left = 1 - step / self.config.trainer.max_steps
        loss = sums.loss(counts.clamp(min=1), self.config.optim, left) * world  # DDP averages gradients over processes
        nll = (sums.task.detach() / sums.counts[0].clamp(min=1)).item()
        self.latest = {"loss": nll, "tokens": float(batch.target_tokens), "examples": float(batch.examples)}
        if scored.null is not None:
            seeing = scored.real & (batch.sees.gather(1, scored.example) > 0)
            self.latest["read_entropy"] = read_entropy(context.choice)
            if self.model.config.memory.gate:
                gates = torch.cat([layer.read.gate.detach() for layer in self.model.decoder.layers])
                self.latest["gate"] = gates.abs().mean().item()
            self.latest["null_mass"] = ((scored.null * seeing).sum() / seeing.sum().clamp(min=1)).item()
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the weights and of their average: together, so that no checkpoint falls between the two."""
        super().optimizer_step(*args, **kwargs)
        if self.average is None:
            return
        steps = self.global_step
        decay = min(self.config.optim.average, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def validation_step(self, batch: Batch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Loss, and the share of targets that greedy generation would write exactly (by teacher forcing, the same thing)."""
        model = self.best_guess
        model.eval()
        context = model.read(batch)
        decoded = model.decode_targets(batch, context)
        scored = model.target_logprobs(batch, context, decoded=decoded)
        said = model.log_probs(decoded, context).argmax(-1)
        wrong = ((said != batch.targets) & (batch.targets != 0)).any(-1)
        there = batch.sees >= 0
        self.totals[dataloader_idx] += torch.tensor(
            [-(scored.logp * scored.real).sum(), scored.real.sum(), (there & ~wrong).sum(), there.sum()], dtype=torch.float64
        )

    def on_validation_epoch_start(self) -> None:
        self.totals = torch.zeros(2, 4, dtype=torch.float64)  # of the validation set, and of its renamed copy

    def on_validation_epoch_end(self) -> None:
        totals = self.totals.to(self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(totals)
        both = totals.sum(0)  # the best model is the best by both
        exact = (totals[:, 2] / totals[:, 3].clamp(min=1)).float()
        scores = {"val/loss": (both[0] / both[1].clamp(min=1)).float(), "val/exact": exact[0]}
        self.log_dict(scores | ({"val/renamed": exact[1]} if totals[1, 3] else {}), rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.config.optim)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, self.config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
