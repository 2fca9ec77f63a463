"""What the model is given: every different text once, and where it is read.

Shapes: G episodes, E examples of each, S input tokens, T target tokens, N entries, M memory tokens,
Q target tokens of an episode.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from memgpt_cli.model.pointer import BACK


@dataclass
class Batch:
    """Episodes side by side. Texts that occur twice are encoded once; token indices point into their states.

    texts           list of [n, L]  ids of the different texts, in groups of like length; 0 pads
    input_text      [G, E]          which text each input is (row over all groups)
    input_tokens    [G, E, S]       its ids
    input_index     [G, E, S]       its tokens among all token states
    entry_text      [G, N]          which text each entry is
    entry_kind      [G, N]          index into schema.KINDS, -1 where there is no entry
    memory_tokens   [G, M]          ids of the entries' tokens, packed; slot 0 is the null slot, 0 pads
    memory_index    [G, M]          those tokens among all token states
    memory_entry    [G, M]          the entry each token belongs to
    memory_before   [G, M, 3]       the 1st, 2nd, 3rd id before each token within its entry
    input_before    [G, E, S, 3]    likewise for inputs
    sees            [G, E]          how many entries each example sees, -1 where there is no example
    targets         [G, E, T]       ids that end in EOS; 0 pads
    packed          [G, Q]          places of the real target tokens among E*T, E*T pads: what memory is read for
    evidence        [K, 3]          (episode, example, entry) where it is known
    found           [G, E]          whether it was found, not named by the data: any piece of it may suffice
    rows            list of (episode row, example) pairs in reading order, to put predictions back
    """

    texts: list[Tensor]
    input_text: Tensor
    input_tokens: Tensor
    input_index: Tensor
    input_before: Tensor
    entry_text: Tensor
    entry_kind: Tensor
    memory_tokens: Tensor
    memory_index: Tensor
    memory_entry: Tensor
    memory_before: Tensor
    sees: Tensor
    targets: Tensor
    packed: Tensor
    evidence: Tensor
    found: Tensor
    rows: list[list[tuple[int, int]]]

    def to(self, device: torch.device | str) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return [changed(v) for v in value] if isinstance(value, list) and value and isinstance(value[0], Tensor) else value

        return Batch(**{f.name: changed(getattr(self, f.name)) for f in fields(self)})

    @property
    def examples(self) -> int:
        return int((self.sees >= 0).sum())

    @property
    def target_tokens(self) -> int:
        return int((self.targets != 0).sum())


def shift(targets: Tensor) -> Tensor:
    """What is said before each target token: targets one place later, 0 first."""
    return F.pad(targets, (1, -1))


def plain_batch(input_ids: Tensor, target_ids: Tensor) -> Batch:
    """Inputs and targets without memory as a batch of one-example episodes."""
    count, length = input_ids.shape
    rows = torch.arange(count, device=input_ids.device)[:, None]
    index = 1 + torch.arange(count * length, device=input_ids.device).view(count, 1, length)
    before = torch.stack([F.pad(input_ids, (n, 0))[:, :length] for n in range(1, BACK + 1)], -1)[:, None]
    none = input_ids.new_zeros(count, 0)
    return Batch(
        texts=[input_ids],
        input_text=rows,
        input_tokens=input_ids[:, None],
        input_index=index,
        input_before=before,
        entry_text=none,
        entry_kind=none,
        memory_tokens=none,
        memory_index=none,
        memory_entry=none,
        memory_before=input_ids.new_zeros(count, 0, BACK),
        sees=rows * 0,
        targets=target_ids[:, None],
        packed=torch.arange(target_ids.shape[1], device=input_ids.device).expand(count, -1),
        evidence=input_ids.new_zeros(0, 3),
        found=torch.zeros_like(rows, dtype=torch.bool),
        rows=[[(n, 0)] for n in range(count)],
    )
