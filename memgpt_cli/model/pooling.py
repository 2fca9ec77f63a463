"""Vectors of texts: what retrieval compares."""

from collections.abc import Sequence

import torch
from torch import Tensor

from memgpt_cli.model.transformer import MemoryTransformer, mean_state

TOKENS_AT_ONCE = 8192


@torch.inference_mode()
def means(model: MemoryTransformer, ids: Sequence[Sequence[int]]) -> Tensor:
    """Texts of ids, EOS included -> their mean states [N, D], on the model's device."""
    order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    out = torch.zeros(len(ids), model.config.d_model, device=model.null.device, dtype=torch.float32)
    first = 0
    while first < len(order):
        rows = order[first : first + max(1, TOKENS_AT_ONCE // max(1, len(ids[order[first]])))]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[n]) for n in rows], batch_first=True).to(out.device)
        out[rows] = mean_state(model.encode(tokens), tokens).float()
        first += len(rows)
    return out
