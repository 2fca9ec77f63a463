"""Evaluation: what a model writes and how well, with its memory as it is, shuffled, taken away, or given by an oracle."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgpt_cli import __version__
from memgpt_cli.config import EvalConfig, GenerateConfig
from memgpt_cli.data.batching import collate, evaluation_plan
from memgpt_cli.data.dataset import EpisodeDataset
from memgpt_cli.errors import UsageError, did_you_mean
from memgpt_cli.evaluation.metrics import METRICS, Score, mean_score, ratio_interval
from memgpt_cli.files import write_text, writing
from memgpt_cli.generation.decode import generate
from memgpt_cli.model import Batch, MemoryTransformer
from memgpt_cli.tokenizer import Tokenizer

MEMORIES = ("oracle", "learned", "shuffled", "empty")
"""oracle: only the entries named as evidence · learned: what the model's scores choose · shuffled: another episode's
entries · empty: none."""

Report = Callable[[str, int, int], None]


@dataclass
class Condition:
    """Everything measured under one kind of memory."""

    memory: str
    scores: list[Score]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def check_memories(names: Sequence[str]) -> None:
    for name in names:
        if name not in MEMORIES:
            raise UsageError(f"'{name}' is no kind of memory.{did_you_mean(name, MEMORIES)}")


def with_memory(memory: str, rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their memory replaced; `others` are the rows whose entries a shuffled memory shows."""
    if memory == "empty":
        return [{**row, "sees": [0] * len(row["sees"]), "evidence": [[] for _ in row["evidence"]]} for row in rows]
    if memory == "shuffled":
        return [_exchange(row, other) for row, other in zip(rows, others, strict=True)]
    return rows


def _exchange(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The row with as many entries of another episode as each example sees of its own, or as there are."""
    there = len(other["entry_ids"])
    taken = {k: other[k] for k in ("entries", "kinds", "entry_meta", "entry_ids")}
    return {**row, **taken, "sees": [min(s, there) for s in row["sees"]], "evidence": [[] for _ in row["evidence"]]}


def _other(data: EpisodeDataset, episode: int) -> dict[str, Any]:
    """An episode of another document (the parts of one follow each other, and tell what comes next)."""
    document = data[episode].meta.get("document", episode)
    for step in range(1, len(data)):
        n = (episode + step) % len(data)
        if data[n].meta.get("document", n) != document:
            return data.row(n)
    return {**data.row(episode), "entries": [], "kinds": [], "entry_meta": [], "entry_ids": []}


def _oracle(batch: Batch) -> Tensor:
    """[G, E, N]: the evidence; every entry for an example that names none."""
    only = torch.zeros(*batch.sees.shape, batch.entry_kind.shape[1], dtype=torch.bool)
    only[tuple(batch.evidence.T)] = True
    return only | ~only.any(-1, keepdim=True)


def _ranks(scores: Tensor, visible_to: Tensor, evidence: Tensor) -> Iterator[int]:
    """The rank (from 1) of the best-scored evidence among what each example sees."""
    best: dict[tuple[int, int], int] = {}
    time_of = torch.arange(scores.shape[-1])
    for g, e, n in evidence.tolist():
        seen = time_of < visible_to[g, e]
        rank = 1 + int(((scores[g, e] > scores[g, e, n]) & seen).sum())
        best[g, e] = min(rank, best.get((g, e), rank))
    yield from best.values()


@torch.inference_mode()
def _negative_log_likelihood(model: MemoryTransformer, batch: Batch, only: Tensor | None) -> tuple[Tensor, Tensor]:
    scored = model.target_logprobs(batch, model.read(batch, only=only))
    examples = batch.sees.shape[1]
    return scored.by_example(-scored.logp, examples), scored.by_example(torch.ones_like(scored.logp), examples)


def evaluate(
    model: MemoryTransformer,
    tokenizer: Tokenizer,
    split: Path,
    metrics: Sequence[str],
    config: EvalConfig,
    decoding: GenerateConfig,
    report: Report = lambda stage, n, total: None,
    postprocess: Callable[[str], str] | None = None,
) -> list[Condition]:
    """Scores of a model on a split under each memory of `config.memories`."""
    check_memories(config.memories)
    data = EpisodeDataset(split)
    if not any(evidence for row in data.rows["evidence"] for evidence in row):
        config = replace(config, memories=tuple(m for m in config.memories if m != "oracle"))
    return [_condition(m, model, tokenizer, data, metrics, config, decoding, report, postprocess) for m in config.memories]


def _condition(
    memory: str,
    model: MemoryTransformer,
    tokenizer: Tokenizer,
    data: EpisodeDataset,
    metrics: Sequence[str],
    config: EvalConfig,
    decoding: GenerateConfig,
    report: Report,
    postprocess: Callable[[str], str] | None,
) -> Condition:
    began = time.monotonic()
    null: list[float] = []
    written: list[dict[str, Any]] = []
    ranks: list[int] = []
    writes = any(m in METRICS for m in metrics)
    device = next(model.parameters()).device
    most = [n for n in (config.max_examples, 0 if memory == "learned" else config.ablation_examples) if n]
    batches = evaluation_plan(data, config.batch_tokens, examples=min(most, default=0))
    for done, parts in enumerate(batches):
        rows = [data.row(p.episode) for p in parts]
        others = [_other(data, p.episode) for p in parts] if memory == "shuffled" else []
        shown = with_memory(memory, rows, others)
        batch = collate(shown, [(p.first, p.last) for p in parts])
        only = _oracle(batch).to(device) if memory == "oracle" else None
        on_device = batch.to(device)
        shape = batch.sees.shape
        nll, tokens = torch.zeros(shape), torch.zeros(shape)
        if "perplexity" in metrics:
            nll, tokens = (t.cpu() for t in _negative_log_likelihood(model, on_device, only))
        ids: list[list[list[int]]] | None = None
        if writes:
            made = generate(model, on_device, decoding, only=only)
            ids = made.ids
            scores = made.reading.scores
            if decoding.beams == 1:
                null += (100 * made.reading.null[on_device.sees > 0]).tolist()
        else:
            scores = model.read(on_device, only=only).choice.scores
        if memory == "learned":
            ranks += _ranks(scores.cpu(), batch.sees, batch.evidence)
        for g, pairs in enumerate(batch.rows):
            for e, (_, example) in enumerate(pairs):
                row = rows[g]
                text = tokenizer.decode(ids[g][e]) if ids else ""
                written.append(
                    {
                        "episode": row["id"],
                        "example": example,
                        "input": row["inputs"][example],
                        "prediction": postprocess(text) if postprocess else text,
                        "references": row["references"][example] or [row["targets"][example]],
                        **(
                            {
                                "nll": float(nll[g, e]),
                                "tokens": int(tokens[g, e]),
                                "bytes": len(row["targets"][example].encode()),
                            }
                            if "perplexity" in metrics
                            else {}
                        ),
                    }
                )
        report(memory, done + 1, len(batches))
    written.sort(key=lambda w: (w["episode"], w["example"]))
    found = _scores(written, ranks, metrics, config.bootstrap, tokenizer, decoding)
    if null:
        found.append(mean_score("null mass", null, "attention on the null slot while writing|percent", config.bootstrap))
    return Condition(memory, found, written, time.monotonic() - began)


def _scores(
    written: list[dict[str, Any]],
    ranks: list[int],
    metrics: Sequence[str],
    resamples: int,
    tokenizer: Tokenizer,
    decoding: GenerateConfig,
) -> list[Score]:
    predictions, references = [w["prediction"] for w in written], [w["references"] for w in written]
    beams = (
        f"|beam:{decoding.beams}"
        if decoding.beams > 1
        else f"|temp:{decoding.temperature}"
        if decoding.temperature
        else "|greedy"
    )
    out: list[Score] = []
    for name in metrics:
        if name == "perplexity":
            out.append(_perplexity(written, tokenizer, resamples))
        elif name == "recall":
            for k in (1, 8):
                out.append(mean_score(f"recall@{k}", [100.0 * (r <= k) for r in ranks], f"recall@{k}|any evidence", resamples))
            out.append(mean_score("mrr", [100.0 / r for r in ranks], "mrr|best evidence", resamples))
        else:
            scores = METRICS[name](predictions, references, resamples)
            if name == "exact":
                scores.append(_exact_episodes(written, resamples))
            out += [Score(**{**asdict(s), "signature": s.signature + beams}) for s in scores]
    return out


def _exact_episodes(written: list[dict[str, Any]], resamples: int) -> Score:
    """Share of episodes (dialogues) whose every answer is exact."""
    right: dict[str, bool] = {}
    for w in written:
        ok = any(w["prediction"].strip() == r.strip() for r in w["references"])
        right[w["episode"]] = right.get(w["episode"], True) and ok
    return mean_score("exact episodes", [100.0 * r for r in right.values()], "exact|all of an episode", resamples)


def _perplexity(written: list[dict[str, Any]], tokenizer: Tokenizer, resamples: int) -> Score:
    """exp of nats per token, EOS included; bits per byte beside it, which other tokenizers can be compared by."""
    nats, tokens = sum(w["nll"] for w in written), sum(w["tokens"] for w in written)
    size = sum(w["bytes"] for w in written)
    low, high = (
        x if x is None else math.exp(min(50.0, x))
        for x in ratio_interval([w["nll"] for w in written], [w["tokens"] for w in written], resamples)
    )
    signature = f"ppl|token|eos|tokenizer:{tokenizer.fingerprint}|memgpt:{__version__}"
    value = math.exp(min(50.0, nats / max(1, tokens)))
    return Score("perplexity", value, signature, low, high, n=tokens, more={"bits per byte": nats / math.log(2) / max(1, size)})


def save_results(folder: Path, split: str, conditions: list[Condition]) -> Path:
    """Predictions as JSONL and scores as JSON below `folder`; returns the scores' file."""
    folder.mkdir(parents=True, exist_ok=True)
    for condition in conditions:
        with writing(folder / f"{split}-{condition.memory}.jsonl") as file:
            for row in condition.predictions:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    scores = {c.memory: [asdict(s) for s in c.scores] for c in conditions}
    path = folder / f"{split}-scores.json"
    write_text(path, json.dumps(scores, ensure_ascii=False, indent=1))
    return path
