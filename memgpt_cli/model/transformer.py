"""The memory Transformer: an encoder of inputs and entries, one score, one read, one decoder.

    encode(tokens)             [B, L] -> states [B, L, D]
    read(batch)                everything the decoder attends to, projected once
    decode(said, context)      [G, E, T] -> hidden [G, Q, D], of the tokens that are really there
    log_probs(decoded, …)      [G, E, T, V]

Shapes: B texts, L tokens, D width, H heads, V vocabulary; G episodes, E examples of each, S input, T target, N entries,
M memory tokens, Q target tokens of an episode.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from memgpt_cli.model.attention import KV, MASKED, Packing, Reading, RelativeBias, causal_bias, window_bias
from memgpt_cli.model.inputs import Batch, plain_batch, shift
from memgpt_cli.model.layers import DecoderLayer, EncoderLayer, LayerKV
from memgpt_cli.model.pointer import BACK, Pointed, Pointer, PointerContext, copied_distribution, copied_mass, copyable, mix
from memgpt_cli.model.retrieval import Choice, Retriever
from memgpt_cli.schema import KINDS, ModelConfig


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """[G, E, ..] -> [G, E', ..]: the examples `rows` [G, E']."""
    return x[torch.arange(rows.shape[0], device=rows.device)[:, None], rows]


@dataclass(frozen=True)
class Context:
    """What the examples of a batch read, projected once; nothing in it changes while they are decoded."""

    layers: tuple[LayerKV, ...]
    input_bias: Tensor  # [G, E, S]: MASKED on padding
    memory_bias: Tensor  # [G, H, E, M]: what each example may read, and how much
    pointer: PointerContext | None
    memory_tokens: Tensor  # [G, M]
    memory_entry: Tensor  # [G, M]
    choice: Choice
    vector: Tensor | None = None  # [G, E, D]: of the input and of what is read, added to what the decoder is given

    def select(self, rows: Tensor) -> "Context":
        """The context with examples `rows` [G, E'] (beams repeat and reorder them). The memory stays shared."""
        mine = ("input_keys", "input_bias", "memory_bias", "input_before", "input_tokens", "input_inside")
        pointer = self.pointer and self.pointer._replace(**{n: pick(getattr(self.pointer, n), rows) for n in mine})
        return replace(
            self,
            layers=tuple(LayerKV(KV(*(pick(x, rows) for x in layer.inputs)), layer.memory) for layer in self.layers),
            input_bias=pick(self.input_bias, rows),
            memory_bias=pick(self.memory_bias.transpose(1, 2), rows).transpose(1, 2),
            pointer=pointer,
            vector=None if self.vector is None else pick(self.vector, rows),
        )


@dataclass(frozen=True)
class Cache:
    """What has been said so far: the ids, each layer's keys and values of them, and where the last one was copied from."""

    said: Tensor  # [G, E, t]
    layers: tuple[KV, ...]  # [G·E, H, t, K]
    pointed: Tensor | None = None  # [G, E, S + M]

    def select(self, rows: Tensor) -> "Cache":
        """The cache of examples `rows` [G, E']."""
        flat = (torch.arange(rows.shape[0], device=rows.device)[:, None] * self.said.shape[1] + rows).flatten()
        layers = tuple(KV(layer.k[flat], layer.v[flat]) for layer in self.layers)
        return Cache(pick(self.said, rows), layers, None if self.pointed is None else pick(self.pointed, rows))


@dataclass(frozen=True)
class Decoded:
    hidden: Tensor  # [G, Q, D]
    readings: list[Reading]  # how each layer attended to the memory
    pointed: Pointed | None
    packing: Packing
    cache: Cache | None  # grown by what was decoded, where one was given

    def attention(self) -> Tensor:
        """[G, Q, M]: attention on memory, the mean over layers and heads."""
        return torch.stack([reading.mean() for reading in self.readings]).mean(0)

    def null(self) -> Tensor | None:
        """[G, Q]: attention on the null slot, the mean over layers and heads; None without memory."""
        with_memory = all(reading.share is not None for reading in self.readings)
        return torch.stack([reading.null() for reading in self.readings]).mean(0) if with_memory else None


@dataclass(frozen=True)
class Encoded:
    """Texts through the encoder."""

    states: Tensor  # [1 + tokens, D]: the null slot, then each text's tokens, padding included
    means: Tensor  # [texts, D]


class Stack(nn.Module):
    """Layers, their shared position bias, and the last norm."""

    def __init__(self, config: ModelConfig, decoder: bool) -> None:
        super().__init__()
        count, kind = (config.n_decoder_layers, DecoderLayer) if decoder else (config.n_encoder_layers, EncoderLayer)
        self.layers: Any = nn.ModuleList(kind(config) for _ in range(count))
        self.position = RelativeBias(config, bidirectional=not decoder) if config.position == "relative" else None
        self.norm = nn.RMSNorm(config.d_model, config.norm_eps)
        self.checkpointing = False  # while training, keep only the layers' inputs and compute the rest again

    def run(self, layer: nn.Module, *args: Any) -> Any:
        """A layer's output, through gradient checkpointing where that is on."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)


def waves(places: int, width: int) -> Tensor:
    """[places, width]: sines and cosines of each place at falling frequencies (arXiv 1706.03762): near places are alike."""
    angles = torch.arange(places)[:, None] * 10000.0 ** -(torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def mean_state(states: Tensor, tokens: Tensor) -> Tensor:
    """States [B, L, D] and ids [B, L] (0 pads) -> the mean over what is real, [B, D]: what scores are made of."""
    real = (tokens != 0)[..., None]
    return (states * real).sum(1) / real.sum(1).clamp(min=1)


class MemoryTransformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder, self.decoder = Stack(config, decoder=False), Stack(config, decoder=True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._build_memory()
        self.apply(self._initialise)
        for name, weight in self.named_parameters():
            if name.endswith(("o.weight", "down.weight")):
                depth = config.n_decoder_layers if name.startswith("decoder") else config.n_encoder_layers
                weight.data.div_(math.sqrt(2 * depth))
        self._initialise_tables()

    def _build_memory(self) -> None:
        config = self.config
        self.retriever = Retriever(config)
        self.time, self.kind = nn.Embedding(config.memory.max_time, config.d_model), nn.Embedding(len(KINDS), config.d_model)
        self.null = nn.Parameter(torch.zeros(config.d_model))
        self.pointer = Pointer(config) if config.copy else None
        self.vector = nn.Linear(2 * config.d_model, config.d_model, bias=False) if config.memory.vector else None

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5 if self.config.scale_embeddings else 1.0)

    def _initialise_tables(self) -> None:
        nn.init.normal_(self.kind.weight, std=0.02)
        self.time.weight.data.copy_(0.2 * waves(*self.time.weight.shape))
        nn.init.normal_(self.null, std=0.02)
        if self.pointer is not None:
            self.pointer.initialise()

    def add_memory(self) -> None:
        """New memory parameters beside pretrained weights: the output stays what it was (`memory.gate`).

        Query and key begin as the identity: retrieval by the cosine of mean encoder states, which is better than chance.
        """
        self._build_memory()
        for module in (self.retriever, self.pointer):
            if module is not None:
                module.apply(self._initialise)
        nn.init.eye_(self.retriever.query.weight)
        nn.init.eye_(self.retriever.key.weight)
        if self.vector is not None:
            nn.init.zeros_(self.vector.weight)
        self._initialise_tables()
        for layer in self.decoder.layers:
            layer.read.gate = nn.Parameter(torch.zeros(self.config.n_heads)) if self.config.memory.gate else None

    def memory_parameters(self) -> set[str]:
        """The names of the parameters that only reading memory has, and of the table that belongs to them."""
        mine = ("retriever.", "time.", "kind.", "null", "pointer.", "vector.")
        found = {name for name, _ in self.named_parameters() if name.startswith(mine) or name.endswith(".read.gate")}
        return found | ({"retriever.words.same"} if self.retriever.words is not None else set())

    def embed(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        out: Tensor = self.dropout(x * math.sqrt(self.config.d_model) if self.config.scale_embeddings else x)
        return out

    def encode(self, tokens: Tensor) -> Tensor:
        """Ids [B, L] (0 pads) -> states [B, L, D]; inputs and entries alike, positions from 0."""
        bias = torch.zeros(tokens.shape, device=tokens.device).masked_fill(tokens == 0, MASKED)[:, None, None]
        length = tokens.shape[1]
        if self.encoder.position is not None:
            bias = bias + self.encoder.position(length, length)
        if self.config.encoder_window:
            bias = bias + window_bias(length, self.config.encoder_window, tokens.device)
        x, real = self.embed(tokens), (tokens != 0)[..., None]
        for layer in self.encoder.layers:
            x = self.encoder.run(layer, x, bias, real)
        states: Tensor = self.dropout(self.encoder.norm(x))
        return states

    def encode_texts(self, texts: list[Tensor]) -> Encoded:
        """Groups of ids [n, L], 0 pads."""
        states, means = [self.null[None]], []
        for tokens in texts:
            h = self.encode(tokens)
            means.append(mean_state(h, tokens))
            states.append(h.flatten(0, 1))
        return Encoded(torch.cat([s.to(states[-1].dtype) for s in states]), torch.cat(means))

    def read(self, batch: Batch, top_k: int = 0, only: Tensor | None = None, encoded: Encoded | None = None) -> Context:
        """Encodes the batch's texts, chooses the entries each example reads, and projects keys and values once.

        Args:
            top_k: entries read per example; 0 takes the configured number.
            only: [G, E, N] restricts what may be read (the oracle of an ablation).
            encoded: the batch's texts, where they have been encoded already.
        """
        encoded = encoded or self.encode_texts(batch.texts)
        states, means = encoded.states, encoded.means
        queries, vectors = self.retriever.queries(means[batch.input_text]), self.retriever.vectors(means[batch.entry_text])
        kinds, words = batch.entry_kind, self.retriever.words
        inputs = states[batch.input_index]  # [G, E, S, D]
        memory = states[batch.memory_index]  # [G, M, D]
        shared = words(batch, inputs, memory) if words is not None and kinds.shape[1] else None
        alone = self.retriever.by_vectors(queries, vectors)
        choice = self.retriever(queries, vectors, kinds, batch.sees, top_k, only, shared, alone)
        kind = kinds.gather(1, batch.memory_entry).clamp(min=0)  # [G, M]
        timed = self.retriever.timed[kind][..., None]
        time = self.time(batch.memory_entry.clamp(max=self.config.memory.max_time - 1))
        real = (batch.memory_tokens != 0)[..., None]
        memory = memory + (real * (self.kind(kind) + timed * time)).to(memory.dtype)
        input_bias = torch.zeros(batch.input_tokens.shape, device=states.device).masked_fill(batch.input_tokens == 0, MASKED)
        memory_bias = self._memory_bias(batch, choice)
        layers = tuple(LayerKV(layer.read.project(inputs), layer.read.project(memory)) for layer in self.decoder.layers)
        pointer = None
        if self.pointer is not None:
            # the null slot and ends of texts say nothing, so they are never pointed at
            pointer = PointerContext(
                input_keys=self.pointer.keys(inputs),
                memory_keys=self.pointer.keys(memory),
                input_bias=input_bias.masked_fill(~copyable(batch.input_tokens), MASKED),
                memory_bias=memory_bias.mean(1).masked_fill(~copyable(batch.memory_tokens)[:, None], MASKED),
                input_before=batch.input_before,
                memory_before=batch.memory_before,
                input_tokens=batch.input_tokens,
                memory_tokens=batch.memory_tokens,
                input_inside=self.pointer.inside(batch.input_tokens, batch.input_before),
                memory_inside=self.pointer.inside(batch.memory_tokens, batch.memory_before),
            )
        vector = self._vector(batch, choice, means)
        return Context(layers, input_bias, memory_bias, pointer, batch.memory_tokens, batch.memory_entry, choice, vector)

    def _vector(self, batch: Batch, choice: Choice, means: Tensor) -> Tensor | None:
        """[G, E, D]: the mean state of the input beside the mean of what is read, each entry's by its share, projected."""
        if self.vector is None:
            return None
        entries = torch.cat([means[batch.entry_text], self.null.expand(len(batch.sees), 1, -1)], 1)
        made: Tensor = self.vector(torch.cat([means[batch.input_text], choice.read.exp().to(means.dtype) @ entries], -1))
        return made

    def _memory_bias(self, batch: Batch, choice: Choice) -> Tensor:
        """[G, H, E, M]: its entry's bias on each token, and the null slot's where anything is seen at all."""
        entry = batch.memory_entry[:, None, None].expand(-1, self.config.n_heads, batch.sees.shape[1], -1)
        bias = choice.bias.gather(3, entry).masked_fill((batch.memory_tokens == 0)[:, None, None], MASKED)
        if not bias.shape[3]:
            return bias
        null = choice.none.masked_fill(batch.sees <= 0, MASKED)[:, None, :, None].expand_as(bias[..., :1])
        return torch.cat([null, bias[..., 1:]], -1)

    def start(self, batch: Batch) -> Cache:
        """The cache of examples that have said nothing yet."""
        g, e = batch.sees.shape
        nothing = self.embedding.weight.new_zeros(g * e, self.config.n_heads, 0, self.config.d_kv)
        return Cache(batch.sees.new_zeros(g, e, 0), tuple(KV(nothing, nothing) for _ in self.decoder.layers))

    def decode(self, said: Tensor, context: Context, packed: Tensor | None = None, cache: Cache | None = None) -> Decoded:
        """Ids [G, E, T] (0 starts) -> hidden states [G, Q, D] and each layer's attention on memory.

        Args:
            packed: [G, Q] the places among E*T that are real; all of them where None.
            cache: what `said` continues; the result's has grown by it.
        """
        episodes, examples, length = said.shape
        packing = Packing(packed, episodes, examples, length, said.device)
        everything = said if cache is None else torch.cat([cache.said, said], 2)
        total = everything.shape[2]
        x = self.embed(packing.pack(said))
        if context.vector is not None:
            x = x + packing.of_example(context.vector)
        bias = causal_bias(length, total, said.device) if length > 1 else None
        if self.decoder.position is not None:
            position = self.decoder.position(length, total)
            bias = position if bias is None else bias + position
        read_bias = (context.input_bias, packing.of_example(context.memory_bias))
        readings, grown = [], []
        for n, layer in enumerate(self.decoder.layers):
            past = cache.layers[n] if cache else None
            x, reading, past = self.decoder.run(layer, x, bias, context.layers[n], read_bias, packing, past)
            readings.append(reading)
            grown.append(past)
        hidden, pointed = self.dropout(self.decoder.norm(x)), None
        if self.pointer is not None:
            newest = torch.stack([F.pad(everything, (back, 0))[..., total - length : total] for back in range(BACK)], -1)
            pointed = self.pointer(hidden, context.pointer, newest, packing, cache and cache.pointed)
        after = Cache(everything, tuple(grown), pointed and pointed.last) if cache else None
        return Decoded(hidden, readings, pointed, packing, after)

    def vocab_logits(self, hidden: Tensor) -> Tensor:
        """[.., D] -> [.., V] in fp32."""
        hidden = hidden * self.config.d_model**-0.5 if self.config.scale_logits else hidden
        table = self.embedding if self.head is None else self.head
        return F.linear(hidden, table.weight).float()

    def log_probs(self, decoded: Decoded, context: Context) -> Tensor:
        """[G, E, T, V]: log-probabilities of the next token at every place that was decoded."""
        vocab = self.vocab_logits(decoded.hidden).log_softmax(-1)
        packing, pointed = decoded.packing, decoded.pointed
        if pointed is None or context.pointer is None:
            return packing.unpack(vocab)
        copied = copied_distribution(pointed, context.pointer.tokens(packing), self.config.vocab_size)
        return packing.unpack(mix(vocab, copied, pointed.gate[..., None]))

    def forward(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Without memory: inputs [B, S] and targets [B, T] (0 pads) -> log-probabilities [B, T, V], or logits without a pointer."""
        batch = plain_batch(input_ids, target_ids)
        context = self.read(batch)
        decoded = self.decode(shift(batch.targets), context)
        if self.pointer is None:
            return decoded.packing.unpack(self.vocab_logits(decoded.hidden))[:, 0]
        return self.log_probs(decoded, context)[:, 0]

    def decode_targets(self, batch: Batch, context: Context) -> Decoded:
        """The decoder over the batch's targets, each seeing those before it."""
        return self.decode(shift(batch.targets), context, batch.packed)

    def target_logprobs(
        self, batch: Batch, context: Context, smoothing: bool = False, decoded: Decoded | None = None
    ) -> "Scored":
        """Log-probability of each target token, without a distribution over the vocabulary for what is copied.

        `decoded` is what `decode_targets` gave, where it is there already.
        """
        decoded = decoded or self.decode_targets(batch, context)
        packing = decoded.packing
        targets = packing.pack(batch.targets)
        vocab = self.vocab_logits(decoded.hidden).log_softmax(-1)
        logp = vocab.gather(-1, targets[..., None])[..., 0]
        copied = None
        if decoded.pointed is not None and context.pointer is not None:
            copied, everywhere = copied_mass(decoded.pointed, context.pointer.holds(targets, packing))
            logp = mix(logp, copied, decoded.pointed.gate)
            read = everywhere[..., context.pointer.input_tokens.shape[-1] :]
        else:
            read = decoded.attention()
        return Scored(
            logp=logp,
            real=targets != 0,
            targets=targets,
            example=packing.example,
            copied=copied,
            memory_attention=read,
            null=decoded.null(),
            smooth=-vocab.mean(-1) if smoothing else None,
        )


@dataclass(frozen=True)
class Scored:
    """Target tokens packed by episode, [G, Q]; where `real` is False there is none."""

    logp: Tensor  # [G, Q]
    real: Tensor  # [G, Q] bool
    targets: Tensor  # [G, Q] ids
    example: Tensor  # [G, Q] whose token it is
    copied: Tensor | None  # [G, Q] the pointer's mass on the target, 0 where the context does not hold it
    memory_attention: Tensor  # [G, Q, M]: the pointer's, or the layers' mean
    null: Tensor | None  # [G, Q] mass on the null slot, mean over layers
    smooth: Tensor | None  # [G, Q] mean negative log-probability over the vocabulary

    def by_example(self, values: Tensor, examples: int) -> Tensor:
        """[G, Q] summed over each example's tokens: [G, E]."""
        out = values.new_zeros(values.shape[0], examples)
        return out.scatter_add(1, self.example, values * self.real)
