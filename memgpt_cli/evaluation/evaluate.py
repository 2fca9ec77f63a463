"""Evaluation: how well a model writes, with its memory as it is, shuffled, taken away, or given by an oracle."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from memgpt_cli import __version__
from memgpt_cli.config import EvalConfig, GenerateConfig
from memgpt_cli.data.dataset import EpisodeDataset
from memgpt_cli.evaluation.memories import check_memories
from memgpt_cli.evaluation.metrics import MODEL_METRICS, Score, find_metric, mean_score, ratio_interval
from memgpt_cli.evaluation.predict import Predicted, Prediction, Predictor, Report
from memgpt_cli.files import write_text, writing
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.tokenizer import Tokenizer


@dataclass
class Condition:
    """Everything measured under one kind of memory."""

    memory: str
    scores: list[Score]
    predictions: list[Prediction] = field(default_factory=list)
    seconds: float = 0.0


def evaluate(
    model: MemoryTransformer,
    tokenizer: Tokenizer,
    split: Path,
    metrics: Sequence[str],
    config: EvalConfig,
    decoding: GenerateConfig,
    report: Report = lambda stage, n, total: None,
    postprocess: Callable[[str], str] = str,
    distractors: int = 0,
) -> list[Condition]:
    """Scores of a model on a split under each memory of `config.memories`."""
    check_memories(config.memories)
    data = EpisodeDataset(split)
    if not any(evidence for row in data.rows["evidence"] for evidence in row):
        config = replace(config, memories=tuple(m for m in config.memories if m != "oracle"))
    writes = any(metric not in MODEL_METRICS for metric in metrics)
    predict = Predictor(model, tokenizer, config, decoding, writes, "perplexity" in metrics, postprocess, distractors)
    conditions = []
    for memory in config.memories:
        began = time.monotonic()
        found = predict(data, memory, report)
        scores = _scores(found, metrics, predict)
        conditions.append(Condition(memory, scores, found.predictions, time.monotonic() - began))
    return conditions


def _scores(found: Predicted, metrics: Sequence[str], by: Predictor) -> list[Score]:
    predictions, references = [p.prediction for p in found.predictions], [p.references for p in found.predictions]
    resamples, d = by.config.bootstrap, by.decoding
    how = f"|beam:{d.beams}" if d.beams > 1 else f"|temp:{d.temperature}" if d.temperature else "|greedy"
    out: list[Score] = []
    for name in metrics:
        if name == "perplexity":
            out.append(_perplexity(found.predictions, by.tokenizer, resamples))
        elif name == "recall":
            for k in (1, 8):
                within = [100.0 * (rank <= k) for rank in found.ranks]
                out.append(mean_score(f"recall@{k}", within, f"recall@{k}|any evidence", resamples))
            out.append(mean_score("mrr", [100.0 / rank for rank in found.ranks], "mrr|best evidence", resamples))
        else:
            scores = find_metric(name)(predictions, references, resamples)
            if name == "exact":
                scores.append(_exact_episodes(found.predictions, resamples))
                scores += _exact_by_kind(found.predictions, resamples)
            out += [replace(score, signature=score.signature + how) for score in scores]
    if found.null and by.decoding.beams == 1:
        out.append(mean_score("null mass", found.null, "attention on the null slot while writing|percent", resamples))
    return out


def is_exact(prediction: Prediction) -> bool:
    return any(prediction.prediction.strip() == r.strip() for r in prediction.references)


def _octave(number: int) -> str:
    """1, 2–3, 4–7, 8–15, …"""
    low = 1 << (number.bit_length() - 1) if number else 0
    return f"{low}–{2 * low - 1}" if low > 1 else str(low)


def _exact_by_kind(predictions: Sequence[Prediction], resamples: int) -> list[Score]:
    """Exact answers of each task, by how long ago the evidence came, and by how much was seen, where there are several tasks."""
    if len({p.task for p in predictions}) < 2:
        return []
    kinds: list[Callable[[Prediction], tuple[int, str]]] = [
        lambda p: (0, p.task),
        lambda p: (p.age, f"evidence {_octave(p.age)} entries ago") if p.age else (0, ""),
        lambda p: (p.sees, f"{_octave(p.sees)} entries seen"),
    ]
    out = []
    for kind_of in kinds:
        groups: dict[str, list[float]] = defaultdict(list)
        for (_, kind), p in sorted(((kind_of(p), p) for p in predictions), key=lambda pair: pair[0]):
            groups[kind].append(100.0 * is_exact(p))
        out += [mean_score(f"exact: {kind}", right, "exact|of a kind", resamples) for kind, right in groups.items() if kind]
    return out


def _exact_episodes(predictions: Sequence[Prediction], resamples: int) -> Score:
    """Share of episodes (dialogues) whose every answer is exact."""
    right: dict[str, bool] = {}
    for p in predictions:
        right[p.episode] = right.get(p.episode, True) and is_exact(p)
    return mean_score("exact episodes", [100.0 * r for r in right.values()], "exact|all of an episode", resamples)


def _perplexity(predictions: Sequence[Prediction], tokenizer: Tokenizer, resamples: int) -> Score:
    """exp of nats per token, EOS included; bits per byte beside it, which other tokenizers can be compared by."""
    known = [p.likelihood for p in predictions if p.likelihood]
    nats, tokens, size = sum(k.nll for k in known), sum(k.tokens for k in known), sum(k.bytes for k in known)
    interval = ratio_interval([k.nll for k in known], [k.tokens for k in known], resamples)
    low, high = (x if x is None else math.exp(min(50.0, x)) for x in interval)
    signature = f"ppl|token|eos|tokenizer:{tokenizer.fingerprint}|memgpt:{__version__}"
    value = math.exp(min(50.0, nats / max(1, tokens)))
    return Score("perplexity", value, signature, low, high, n=tokens, more={"bits per byte": nats / math.log(2) / max(1, size)})


def save_results(folder: Path, split: str, conditions: list[Condition]) -> Path:
    """Predictions as JSONL and scores as JSON below `folder`; returns the scores' file."""
    folder.mkdir(parents=True, exist_ok=True)
    for condition in conditions:
        with writing(folder / f"{split}-{condition.memory}.jsonl") as file:
            for prediction in condition.predictions:
                file.write(json.dumps(prediction.as_dict(), ensure_ascii=False) + "\n")
    scores = {c.memory: [asdict(s) for s in c.scores] for c in conditions}
    path = folder / f"{split}-scores.json"
    write_text(path, json.dumps(scores, ensure_ascii=False, indent=1))
    return path
