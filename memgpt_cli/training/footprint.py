"""How much memory training takes, before it is tried: one step is run on tensors without data, and what lives is counted.

The step is the real one (model, losses, autograd, gradient checkpointing, LoRA), under PyTorch's FakeTensorMode, on the
largest batches of the data where it is preprocessed, else on batches filled to the data's limits. Counted are tensors;
a CUDA context, the allocator's fragments and a framework's own hundreds of megabytes come on top.
"""

import random
import weakref
from dataclasses import dataclass, fields, replace
from itertools import count as numbers
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memgpt_cli import hub
from memgpt_cli.checkpoint.families import shape_of
from memgpt_cli.checkpoint.pretrained import describe
from memgpt_cli.config import Config
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import EncodedEpisode, EpisodeDataset
from memgpt_cli.data.plan import parts_of, plan
from memgpt_cli.data.pool import read_together
from memgpt_cli.data.preprocess import is_current
from memgpt_cli.model import Batch, MemoryTransformer
from memgpt_cli.model.attention import SelfAttention
from memgpt_cli.schema import ModelConfig
from memgpt_cli.training.batches import EpisodeData
from memgpt_cli.training.losses import training_sums
from memgpt_cli.training.trainable import choose_trainable, is_inner


@dataclass(frozen=True)
class Estimate:
    """Bytes of one process; `total` is the peak, which parts that do not live at the same time do not add up to."""

    parameters: int
    average: int
    gradients: int
    optimizer: int
    activations: int
    total: int
    batch_tokens: int
    from_data: bool
    joint: bool = False  # the questions of a batch read one corpus together

    def largest_batch(self, bytes_there: int) -> int:
        """The most tokens of a batch that surely fit, in thousands: activations grow with them, and with their square where every
        question reads what all of them bring. 0 where nothing fits."""
        left = max(0, bytes_there - (self.total - self.activations)) / max(1, self.activations)
        return int(self.batch_tokens * (left**0.5 if self.joint and left > 1 else left)) // 1000 * 1000


class LivePeak(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and nobody has let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[Any, int]] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.see(value)
        return out

    def see(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = id(storage)
        if key in self.live and self.live[key][0]() is storage:
            return
        size = storage.nbytes()
        self.live[key] = (weakref.ref(storage, lambda _: self._gone(key)), size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int) -> None:
        self.now -= self.live.pop(key)[1]


def estimate(config: Config, data_root: Path) -> Estimate:
    """The memory of one process of `memgpt train` with this configuration.

    Raises CheckpointError where the shape of the model that `model.init_from` names is not known here.
    """
    batches, vocab = sample_batches(config, data_root)
    shape = model_shape(config, vocab)
    on_gpu = config.trainer.accelerator in ("gpu", "cuda")
    with torch.device("meta"):
        model = choose_trainable(MemoryTransformer(shape).train(), config.optim)
    with FakeTensorMode() as fake:
        _materialise(model, torch.bfloat16 if config.trainer.precision == "bf16-true" else torch.float32)
        _without_data(model, on_gpu)
        model.encoder.checkpointing = model.decoder.checkpointing = config.trainer.gradient_checkpointing
        parameters = list(model.parameters())
        gradients = [p for p in parameters if p.requires_grad]
        held = sum(p.nbytes for p in gradients)
        peaks = [_step(model, batch.map(fake.from_tensor), config) for batch in batches]
    weights = sum(p.nbytes for p in parameters)
    average = weights if config.optim.average else 0
    states = optimizer_bytes(config.optim.optimizer, model)
    buckets = held if config.trainer.devices > 1 else 0  # DDP reduces copies of the gradients
    fixed = weights + average + states + buckets
    # gradients replace activations on the way back: `peaks` holds both. A step of the optimiser on a GPU makes one copy more
    step = held + (held if on_gpu and config.optim.optimizer == "adamw" else 0)
    total = fixed + max(*peaks, step)
    activations = total - fixed - held
    return Estimate(
        weights,
        average,
        held + buckets,
        states,
        activations,
        total,
        config.trainer.batch_tokens,
        bool(vocab),
        bool(config.data.corpus.path),
    )


def optimizer_bytes(name: str, model: MemoryTransformer) -> int:
    """What the optimiser keeps: two numbers a weight (Muon one of its matrices), two of a byte each, or Adafactor's sums."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "muon":
        return sum(p.nbytes if is_inner(n, p) else 2 * p.nbytes for n, p in model.named_parameters() if p.requires_grad)
    if name == "adamw":
        return sum(2 * p.nbytes for p in trained)
    if name == "adamw8bit":  # tensors below 4096 weights stay in fp32; a scale for each block of 256
        return sum(2 * p.nbytes if p.numel() < 4096 else 2 * p.numel() + 2 * 4 * p.numel() // 256 for p in trained)
    return sum(4 * (p.shape[0] + p.shape[1]) if p.dim() > 1 else p.nbytes for p in trained)


def _step(model: MemoryTransformer, batch: Batch, config: Config) -> int:
    """The peak of one forward and backward pass, gradients included, parameters not."""
    with LivePeak() as tracker:
        for value in (*batch.texts, *(getattr(batch, f.name) for f in fields(batch))):
            if isinstance(value, Tensor):
                tracker.see(value)
        for parameter in model.parameters():
            tracker.see(parameter)
        known = sum(p.nbytes for p in model.parameters())
        one_step(model, batch, config)
        peak = tracker.peak - known
    model.zero_grad(set_to_none=True)
    return peak


def one_step(model: MemoryTransformer, batch: Batch, config: Config, device: str = "cpu") -> None:
    """The forward and backward pass of `MemoryModule.training_step`."""
    smoothing, sizes = config.optim.label_smoothing, config.model.memory.sizes or (0,)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=config.trainer.precision.endswith("-mixed")):
        context = model.read(batch, top_k=0 if 0 in sizes else max(sizes))
        scored = model.target_logprobs(batch, context, smoothing=smoothing > 0)
        sums = training_sums(batch, context, scored, smoothing)
        loss = sums.loss(sums.counts.clamp(min=1), config.optim)
    loss.backward()


class _Fused(torch.autograd.Function):
    """What CUDA's fused attention keeps: inputs, output and one number a query; never queries times keys."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, bias, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:4])


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    bias = q.new_zeros(1, 1, 1, 1) if bias is None else bias.to(q.dtype)
    out: Tensor = _Fused.apply(q, k, v, bias)
    return out


def _without_data(model: MemoryTransformer, on_gpu: bool) -> None:
    """Replaces what depends on values: the pointer's lookup; and on a CPU what would run on a GPU."""
    if model.pointer is not None:
        model.pointer._resume = lambda logits, before, said: logits.clone()  # type: ignore[method-assign]
    for module in model.modules():
        if on_gpu and isinstance(module, SelfAttention):
            module.attend = _fused


def _materialise(model: MemoryTransformer, dtype: torch.dtype) -> None:
    """Tensors on a CPU, without data, for those on the meta device, which knows no autocast."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, dtype=dtype), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def model_shape(config: Config, vocab: int) -> ModelConfig:
    """The model's shape without its weights: from the checkpoint's configuration, else from the preset that knows it."""
    model = config.model
    if not model.init_from:
        return replace(model, vocab_size=vocab or config.data.tokenizer.vocab_size)
    if model.vocab_size and hub.is_hub_id(model.init_from):  # the preset knows the shape: nothing is downloaded for it
        return model
    folder = hub.fetch(model.init_from, model.revision, weights=False)
    shape = shape_of(describe(folder), folder)
    return replace(model, **shape, tie_embeddings=shape["scale_logits"])


def _has_data(config: Config, root: Path) -> bool:
    """Whether the data is there, as these settings make it."""
    return (root / config.data.name / "train").is_dir() and is_current(config.data, root)


def sample_batches(config: Config, root: Path) -> tuple[list[Batch], int]:
    """The largest batches there will be, by what is encoded and by what is read, and the tokenizer's size; 0 without data."""
    budget = config.trainer.batch_tokens
    if not _has_data(config, root):
        return [_full_batch(config)], 0
    folder = root / config.data.name
    data, trained = EpisodeDataset(folder / "train"), EpisodeData(folder, config)
    lengths, candidates = data.lengths(), trained.candidates("train")
    planned = plan(parts_of(lengths, budget, candidates.cost if candidates else 0), budget, None)
    encoded = max(planned, key=lambda batch: sum(p.cost for p in batch))

    def read_by_targets(batch: list[Any]) -> int:
        entries = sum(int(lengths[p.episode][0].sum()) for p in batch)
        return entries * max(int(lengths[p.episode][2][p.first : p.last].sum()) for p in batch)

    written = max(planned, key=lambda batch: sum(int(lengths[p.episode][2][p.first : p.last].sum()) for p in batch))
    chosen = {id(b): b for b in (encoded, written, max(planned, key=read_by_targets))}.values()
    made = [
        collate(*read_together([data.row(p.episode) for p in b], b, random.Random(1), config.data.distractors, candidates))
        for b in chosen
    ]
    return made, int(trained.manifest["tokenizer"]["pieces"])


def _full_batch(config: Config) -> Batch:
    """Episodes of one example at the data's limits, with eight entries each, as many as the budget holds; over a corpus one
    episode, in which every example reads what all of them bring."""
    limits, corpus = config.data.limits, config.data.corpus
    entries = min(1, corpus.evidence) + corpus.words + corpus.vectors + corpus.random if corpus.path else 8
    cost = limits.input + limits.target + entries * limits.entry
    count = max(1, config.trainer.batch_tokens // cost)

    def text(length: int, mark: int) -> list[int]:
        return [3 + mark % 97] + [3 + (mark // 97) % 97] + [5] * (length - 3)  # different texts: each is encoded

    episodes, examples = (1, count) if corpus.path else (count, 1)
    read, marks, rows = examples * entries, numbers(), []
    for _ in range(episodes):
        rows.append(
            EncodedEpisode(
                entry_ids=[text(limits.entry, next(marks)) for _ in range(read)],
                kinds=["chunk"] * read,
                input_ids=[text(limits.input, next(marks)) for _ in range(examples)],
                target_ids=[text(limits.target, next(marks)) for _ in range(examples)],
                sees=[read] * examples,
                evidence=[[]] * examples,
            )
        )
    return collate(rows)
