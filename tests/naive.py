"""The model written the slow and obvious way: one example at a time, one text at a time, every distribution in full.

It shares the weights of the fast model and none of its tricks (no batch, no padding, no packing, no cache, no split
softmax, no shared projections), and stands for the equations of docs/architecture.md.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import KINDS, TIMELESS, Episode
from memgpt_cli.tokenizer import EOS, Tokenizer


def rope(x: Tensor) -> Tensor:
    """Rotary positions on [L, K], a pair (i, i + K/2) at a time."""
    length, width = x.shape
    rows = []
    for p in range(length):
        values = list(x[p])
        turned = [torch.zeros(())] * width
        for i in range(width // 2):
            angle = p / 10000 ** (2 * i / width)
            a, b = values[i], values[i + width // 2]
            turned[i] = a * math.cos(angle) - b * math.sin(angle)
            turned[i + width // 2] = a * math.sin(angle) + b * math.cos(angle)
        rows.append(torch.stack(turned))
    return torch.stack(rows)


def t5_bucket(distance: int, bidirectional: bool, buckets: int, furthest: int) -> int:
    """T5's bucket of key position minus query position, as the reference implementation describes it."""
    out = 0
    if bidirectional:
        buckets //= 2
        if distance > 0:
            out = buckets
        distance = abs(distance)
    else:
        distance = max(0, -distance)
    exact = buckets // 2
    if distance < exact:
        return out + distance
    return out + min(buckets - 1, exact + int(math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact)))


class Naive:
    def __init__(self, model: MemoryTransformer) -> None:
        self.m, self.c = model, model.config

    def heads(self, x: Tensor, norm=None) -> list[Tensor]:
        heads = list(x.split(self.c.d_kv, -1))
        return (
            heads if norm is None else [h / (h.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight for h in heads]
        )

    def embed(self, ids: list[int]) -> Tensor:
        x = self.m.embedding.weight[ids]
        return x * math.sqrt(self.c.d_model) if self.c.scale_embeddings else x

    def self_attention(self, layer, x: Tensor, position, causal: bool) -> Tensor:
        a, scale = layer.attention, self.c.d_kv**-0.5 if self.c.scale_attention else 1.0
        out = []
        for h, (q, k, v) in enumerate(
            zip(self.heads(a.q(x), a.q_norm), self.heads(a.k(x), a.k_norm), self.heads(a.v(x)), strict=True)
        ):
            if self.c.position == "rope":
                q, k = rope(q), rope(k)
            rows = []
            for i in range(len(x)):
                last = i + 1 if causal else len(x)
                logits = (k[:last] @ q[i]) * scale
                if position is not None:
                    where = [
                        t5_bucket(j - i, not causal, self.c.relative_buckets, self.c.relative_max_distance) for j in range(last)
                    ]
                    logits = logits + position.weight.weight[where, h]
                rows.append(logits.softmax(-1) @ v[:last])
            out.append(torch.stack(rows))
        return a.o(torch.cat(out, -1))

    def encode(self, ids: list[int]) -> Tensor:
        x = self.embed(ids)
        for layer in self.m.encoder.layers:
            if layer.convolution is not None:
                x = self.convolution(layer.convolution.near, x)
            x = x + self.self_attention(layer, layer.attention_norm(x), self.m.encoder.position, causal=False)
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        return self.m.encoder.norm(x)

    def convolution(self, weight: Tensor, x: Tensor) -> Tensor:
        two = len(weight) // 2
        kernel = torch.cat([weight[:two], torch.ones_like(weight[:1]), weight[two:]]).T[:, None]
        return F.conv1d(x.T[None], kernel, padding=two, groups=x.shape[1])[0].T

    def read_attention(self, read, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        scale = self.c.d_kv**-0.5 if self.c.scale_attention else 1.0
        out = []
        for h, (q, k, v) in enumerate(
            zip(
                self.heads(read.q(x), read.q_norm),
                self.heads(read.k(context), read.k_norm),
                self.heads(read.v(context)),
                strict=True,
            )
        ):
            out.append((q @ k.T * scale + bias[:, h]).softmax(-1) @ v)
        return read.o(torch.cat(out, -1))

    def read(self, episode: Episode, example: int, tokenizer: Tokenizer) -> tuple[Tensor, list[Tensor], list[int], Tensor]:
        """Of one example: its input's states, every entry's, the entries read, and the log-shares of those and of none."""
        x, r = episode.examples[example], self.m.retriever
        own = self.encode([*tokenizer.encode(x.input), EOS])
        encoded = [self.encode([*tokenizer.encode(e.text), EOS]) for e in episode.entries[: x.sees]]
        query = F.normalize(r.query(own.mean(0)), dim=0)
        ids = [tokenizer.encode(e.text) for e in episode.entries[: x.sees]]
        said = self.weights(tokenizer.encode(x.input), own, 0)
        scores = [r.scale * query @ F.normalize(r.key(e.mean(0)), dim=0) for e in encoded]
        scores = [score + self.shared(said, self.weights(i, e, 1)) for score, i, e in zip(scores, ids, encoded, strict=True)]
        scores = torch.stack([*scores, r.none])
        chosen = sorted(scores[:-1].argsort(descending=True)[: self.c.memory.top_k].tolist())
        return own, encoded, chosen, scores[[*chosen, -1]].log_softmax(-1)

    def weights(self, ids: list[int], states: Tensor, side: int) -> list[tuple[tuple[int, ...], Tensor]]:
        """Tokens and pairs of a text, and the weight of each."""
        if self.m.retriever.words is None:
            return []
        w = self.m.retriever.words
        matrix, bias = ((w.input, w.input_bias), (w.entry, w.entry_bias))[side]
        out = []
        for i, state in zip(range(len(ids)), states, strict=False):
            one, two = F.softplus(state @ matrix + bias)
            said, last = int(w.same[ids[i]]), int(w.same[ids[i - 1]]) if i else 0
            out += [((said,), one)] * (said > 0) + [((last, said), two)] * (said > 0 and last > 0)
        return out

    def shared(self, said: list[tuple[tuple[int, ...], Tensor]], held: list[tuple[tuple[int, ...], Tensor]]) -> Tensor:
        """The sum over what is said of its weight times the best weight that the entry has for it."""
        total = torch.zeros(())
        for words, weight in said:
            if there := [other for mine, other in held if mine == words]:
                total = total + weight * torch.stack(there).max()
        return total

    def context(
        self, episode: Episode, example: int, tokenizer: Tokenizer
    ) -> tuple[Tensor, Tensor, list[int], list[list[int]]]:
        """States [L, D], bias [L, H], ids and the ids before each, of one example: input, null slot, entries read."""
        x, r = episode.examples[example], self.m.retriever
        ids = [*tokenizer.encode(x.input), EOS]
        own, encoded, chosen, logp = self.read(episode, example, tokenizer)
        states, bias = [own], [torch.zeros(len(ids), self.c.n_heads)]
        tokens, before = list(ids), [([0, 0, 0] + ids[:i])[::-1][:3] for i in range(len(ids))]
        if x.sees:
            *prior, none = r.beta * logp
            states.append(self.m.null[None])
            bias.append(none.expand(1, self.c.n_heads))
            tokens.append(0)
            before.append([0, 0, 0])
            for n, p in zip(chosen, prior, strict=True):
                entry = episode.entries[n]
                kind = KINDS.index(entry.kind)
                timed = entry.kind not in TIMELESS
                state = encoded[n] + self.m.kind.weight[kind]
                if timed:
                    state = state + self.m.time.weight[min(n, self.c.memory.max_time - 1)]
                age = x.sees - n if timed else 1
                states.append(state)
                bias.append((p + r.age_bias[kind, self.age_bucket(age)]).expand(len(state), -1))
                said = [*tokenizer.encode(entry.text), EOS]
                tokens += said
                before += [([0, 0, 0] + said[:i])[::-1][:3] for i in range(len(said))]
        return torch.cat(states), torch.cat(bias), tokens, before

    def vector(self, episode: Episode, example: int, tokenizer: Tokenizer) -> Tensor:
        """[D]: of the input and of what is read, each entry by its share."""
        own, encoded, chosen, logp = self.read(episode, example, tokenizer)
        means = [*(encoded[n].mean(0) for n in chosen), self.m.null]
        read = sum(share * mean for share, mean in zip(logp.exp(), means, strict=True))
        return self.m.vector(torch.cat([own.mean(0), read]))

    def age_bucket(self, age: int) -> int:
        buckets, furthest = self.c.memory.age_buckets, self.c.memory.max_time
        exact = buckets // 2
        if age <= exact:
            return age - 1
        return min(buckets - 1, exact + int(math.log(age / exact) / math.log(furthest / exact) * (buckets - exact)))

    def log_probs(self, episode: Episode, example: int, said: list[int], tokenizer: Tokenizer) -> Tensor:
        """[T, V]: log-probabilities after each of the ids `said` (0 starts)."""
        states, bias, tokens, before = self.context(episode, example, tokenizer)
        x = self.embed(said)
        if self.m.vector is not None:
            x = x + self.vector(episode, example, tokenizer)
        for layer in self.m.decoder.layers:
            x = x + self.self_attention(layer, layer.attention_norm(x), self.m.decoder.position, causal=True)
            x = x + self.read_attention(layer.read, layer.read_norm(x), states, bias)
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        hidden = self.m.decoder.norm(x)
        out = hidden * self.c.d_model**-0.5 if self.c.scale_logits else hidden
        vocab = (self.m.head(out) if self.m.head is not None else out @ self.m.embedding.weight.T).softmax(-1)
        if self.m.pointer is None:
            return vocab.log()
        p = self.m.pointer
        rows, before_it = [], torch.zeros(len(tokens))
        for t in range(len(said)):
            logits = p.key(states) @ p.query(hidden[t]) * self.c.d_model**-0.5 + bias.mean(1)
            newest = ([0, 0, 0] + said[: t + 1])[::-1][:3]
            lifts = []
            for b in before:
                lift = torch.zeros(())
                for back in range(3):
                    if not (b[back] == newest[back] and b[back] > 0):
                        break
                    lift = lift + p.resume[back]
                lifts.append(lift)
            logits = logits + torch.stack(lifts)
            logits = logits + torch.tensor([0.0 if i > EOS else -1e4 for i in tokens])
            inside = torch.tensor([float(p.parts[i, 0] and p.parts[b[0], 1]) for i, b in zip(tokens, before, strict=True)])
            logits = logits - p.word[0] * inside
            held = torch.tensor([float(i == said[t]) for i in tokens]) * before_it
            held = held / held.sum().clamp(min=1e-3)
            follow = torch.cat([torch.zeros(1), held[:-1]])
            before_it = logits.softmax(-1)
            keys = p.key(states)
            logits = logits + (p.follow(torch.cat([hidden[t], follow @ keys])) + p.word[1] * inside) * follow
            copied = torch.zeros(self.c.vocab_size)
            for i, mass in zip(tokens, logits.softmax(-1), strict=True):
                copied = copied + F.one_hot(torch.tensor(i), self.c.vocab_size) * mass
            odds = p.gate(torch.cat([hidden[t], logits.softmax(-1) @ keys, follow @ keys])) - p.word[2] * (follow @ inside)
            gate = torch.sigmoid(odds)
            rows.append((gate * vocab[t] + (1 - gate) * copied).clamp(min=1e-30).log())
        return torch.stack(rows)

    def greedy(self, episode: Episode, example: int, tokenizer: Tokenizer, steps: int) -> list[int]:
        said = [0]
        for _ in range(steps):
            logp = self.log_probs(episode, example, said, tokenizer)[-1].clone()
            logp[0] = -math.inf
            token = int(logp.argmax())
            if token == EOS:
                break
            said.append(token)
        return said[1:]
