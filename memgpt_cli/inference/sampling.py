"""What may be said next: pure functions on log-probabilities [R, V] and the ids said so far [R, t]."""

import torch
from torch import Tensor

from memgpt_cli.config import GenerateConfig
from memgpt_cli.tokenizer import EOS, PAD

NEVER = -torch.inf


def penalise_repetition(logp: Tensor, said: Tensor, penalty: float) -> Tensor:
    """CTRL's penalty (arXiv 1909.05858) on ids already said; 1 changes nothing."""
    if penalty == 1.0 or not said.shape[1]:
        return logp
    scores = logp.gather(1, said)
    scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    changed = logp.scatter(1, said, scores)
    changed[:, PAD] = logp[:, PAD]
    return changed


def forbid_ngrams(logp: Tensor, said: Tensor, size: int) -> Tensor:
    """No id that would complete an n-gram of this size a second time; 0 forbids nothing."""
    length = said.shape[1]
    if not size or length + 1 < size:
        return logp
    out = logp.clone()
    for row, ids in enumerate(said.tolist()):
        last = tuple(ids[length - size + 1 :])
        for start in range(length - size + 1):
            if tuple(ids[start : start + size - 1]) == last:
                out[row, ids[start + size - 1]] = NEVER
    return out


def filter_top(logp: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Top-k, nucleus (arXiv 1904.09751) and min-p (arXiv 2407.01082) filtering; the most likely id always stays."""
    if top_k and top_k < logp.shape[1]:
        logp = logp.masked_fill(logp < logp.topk(top_k, -1).values[:, -1:], NEVER)
    if top_p < 1:
        ordered, places = logp.log_softmax(-1).sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        logp = logp.masked_fill(torch.zeros_like(logp, dtype=torch.bool).scatter(1, places, before >= top_p), NEVER)
    if min_p > 0:
        p = logp.softmax(-1)
        logp = logp.masked_fill(p < min_p * p.max(-1, keepdim=True).values, NEVER)
    return logp


def constrain(logp: Tensor, said: Tensor, config: GenerateConfig) -> Tensor:
    """What no strategy may say: padding, an end before `min_tokens`, and repetitions as configured."""
    logp = penalise_repetition(logp, said, config.repetition_penalty)
    logp = forbid_ngrams(logp, said, config.no_repeat_ngram)
    logp = logp.clone()
    logp[:, PAD] = NEVER
    if said.shape[1] < config.min_tokens:
        logp[:, EOS] = NEVER
    return logp


def choose(logp: Tensor, config: GenerateConfig, generator: torch.Generator) -> Tensor:
    """The next id of each row: the most likely one at temperature 0, else drawn."""
    if config.temperature <= 0:
        return logp.argmax(-1)
    filtered = filter_top(logp / config.temperature, config.top_k, config.top_p, config.min_p)
    draws: Tensor = torch.multinomial(filtered.softmax(-1).cpu(), 1, generator=generator)[:, 0]
    return draws.to(logp.device)
