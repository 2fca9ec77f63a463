"""The training objective: say the target, point at it where it stands, and score entries as they were read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from memgpt_cli.config import OptimConfig
from memgpt_cli.model import Batch, Context
from memgpt_cli.model.attention import MASKED
from memgpt_cli.model.pointer import copyable
from memgpt_cli.model.transformer import Scored


@dataclass
class Sums:
    """Sums and counts of one batch. Divided by the counts of all processes, gradients equal those of one process."""

    task: Tensor
    pointing: Tensor
    distil: Tensor
    evidence: Tensor
    counts: Tensor  # [4]: target tokens, tokens that can be copied, examples that read memory, pieces of evidence

    def loss(self, counts: Tensor, config: OptimConfig, left: float = 1.0) -> Tensor:
        """The weighted sum; `left` is the share of the training that is still to come: evidence only warms up."""
        task, pointing, distil, evidence = (
            part / count for part, count in zip((self.task, self.pointing, self.distil, self.evidence), counts, strict=True)
        )
        named = config.evidence_weight * left * evidence
        return task + config.copy_weight * pointing + config.distil_weight * distil + named


def entry_mass(scored: Scored, context: Context, examples: int, entries: int) -> Tensor:
    """[G, E, N]: attention that each example's target tokens paid to each entry, summed."""
    attention = scored.memory_attention * scored.real[..., None]
    slots = attention.shape[-1]
    by_example = attention.new_zeros(attention.shape[0], examples, slots)
    by_example.scatter_add_(1, scored.example[..., None].expand_as(attention), attention)
    by_example = by_example * (context.memory_tokens != 0)[:, None]
    out = by_example.new_zeros(*by_example.shape[:2], entries)
    return out.scatter_add_(2, context.memory_entry[:, None].expand_as(by_example), by_example)


def _evidence(batch: Batch, logp: Tensor) -> tuple[Tensor, Tensor]:
    """logp [G, E, N + 1] of entries, and of none of them -> what it lacks of the evidence, summed, and how many pieces there are.

    Where an episode names evidence at all, an example that names none rests on none of its entries. Of evidence that was found,
    and not named, one piece or several may be wrong: what is asked for is their probability together, and they count as one.
    """
    named = batch.evidence
    is_evidence = torch.zeros_like(logp, dtype=torch.bool)
    is_evidence[tuple(named.unbind(1))] = True
    rests = is_evidence.any(-1)
    found = rests & batch.found
    without = rests.any(1, keepdim=True) & ~rests & ~batch.found & (batch.sees > 0)
    all_of_it = is_evidence & ~batch.found[..., None]
    any_of_it = logp.masked_fill(~is_evidence, MASKED).logsumexp(-1)
    loss = -(logp * all_of_it).sum() - (any_of_it * found).sum() - (logp[..., -1] * without).sum()
    return loss, without.sum() + all_of_it.sum() + found.sum()


def training_sums(batch: Batch, context: Context, scored: Scored, smoothing: float) -> Sums:
    real = scored.real
    nll = -scored.logp
    if scored.smooth is not None:
        nll = (1 - smoothing) * nll + smoothing * scored.smooth
    task = (nll * real).sum()
    zero = task.new_zeros(())
    pointing, held = zero, zero
    if scored.copied is not None:
        where = real & copyable(scored.targets) & (scored.copied.detach() > 0)
        pointing = -(scored.copied.clamp(min=1e-6).log() * where).sum()
        held = where.sum()
    distil, readers, evidence, pieces = zero, zero, zero, zero
    entries = batch.entry_kind.shape[1]
    if entries:
        with torch.no_grad():
            mass = entry_mass(scored, context, batch.sees.shape[1], entries)
            total = mass.sum(-1)
            reads = (total > 1e-3) & (context.choice.visible.sum(-1) > 1)
            share = mass / total.clamp(min=1e-6)[..., None]
        choice = context.choice
        readers = reads.sum()
        evidence, pieces = _evidence(batch, choice.logp)
        for scores in (choice.scores, *(choice.near[:1] if choice.near else ())):
            logp = scores.masked_fill(~choice.visible, -1e4).log_softmax(-1)
            distil = distil - ((share * logp).sum(-1) * reads).sum()
        if choice.near:  # else words alone would learn to choose, and a store could not be searched by vectors
            evidence = evidence + _evidence(batch, choice.near[1])[0]
    counts = torch.stack([real.sum(), held, readers, pieces]).float()
    return Sums(task, pointing, distil, evidence, counts)
