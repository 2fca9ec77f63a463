"""From episodes to tensors: every different text once, and where it is read."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.model import Batch
from memgpt_cli.model.pointer import BACK
from memgpt_cli.schema import KINDS
from memgpt_cli.tokenizer import EOS


def pad(rows: Sequence[Sequence[int] | np.ndarray], width: int | None = None, value: int = 0) -> np.ndarray:
    """Ragged rows to one array; `width` at least the longest row."""
    width = max([len(r) for r in rows], default=0) if width is None else width
    out = np.full((len(rows), width), value, dtype=np.int64)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
    return out


def _before(tokens: np.ndarray) -> np.ndarray:
    """[.., L] -> [.., L, BACK]: the ids 1, 2, 3 places earlier, 0 before the beginning."""
    out = np.zeros((*tokens.shape, BACK), dtype=np.int64)
    for back in range(1, BACK + 1):
        out[..., back:, back - 1] = tokens[..., :-back]
    return out


class _Texts:
    """The different texts of a batch, each once, in groups of like length."""

    def __init__(self, wanted: Iterator[tuple[int, ...]]) -> None:
        unique = sorted(set(wanted), key=lambda t: (-len(t), t))
        self.row = {text: n for n, text in enumerate(unique)}
        self.start = np.zeros(len(unique), dtype=np.int64)  # index of its first token's state; 0 is the null slot
        self.groups: list[torch.Tensor] = []
        begin, state = 0, 1
        while begin < len(unique):
            width = len(unique[begin])
            end = begin + 1
            while end < len(unique) and (len(unique[end]) >= 0.75 * width or end - begin < 32):
                end += 1
            self.groups.append(torch.from_numpy(pad(unique[begin:end])))
            self.start[begin:end] = state + width * np.arange(end - begin)
            state += width * (end - begin)
            begin = end


class _Columns:
    """The texts of the examples of one episode that a batch takes, each ending in EOS, and the entries they see."""

    def __init__(self, row: EncodedEpisode, first: int, last: int) -> None:
        self.first, self.row = first, row
        self.sees = [*row.sees[first:last]]
        most = max(self.sees, default=0)  # entries that nobody sees are not encoded
        self.entries = [(*ids, EOS) for ids in row.entry_ids[:most]]
        self.inputs = [(*ids, EOS) for ids in row.input_ids[first:last]]
        self.targets = [(*ids, EOS) for ids in row.target_ids[first:last]]
        self.kinds = [KINDS.index(kind) for kind in row.kinds[:most]]


def collate(rows: Sequence[EncodedEpisode], spans: Sequence[tuple[int, int]] | None = None) -> Batch:
    """Episodes, and of each the examples [first, last), to one batch."""
    spans = spans or [(0, len(row.input_ids)) for row in rows]
    episodes = [_Columns(row, a, b) for row, (a, b) in zip(rows, spans, strict=True)]
    texts = _Texts(text for e in episodes for text in (*e.entries, *e.inputs))
    return Batch(texts=texts.groups, **_examples(episodes, texts), **_memory(episodes, texts))


def _examples(episodes: Sequence[_Columns], texts: _Texts) -> dict[str, Any]:
    """Inputs, targets, and what belongs to an example."""
    g, e = len(episodes), max(len(x.inputs) for x in episodes)
    s = max(len(text) for x in episodes for text in x.inputs)
    t = max((len(text) for x in episodes for text in x.targets), default=1)
    input_text = np.zeros((g, e), np.int64)
    input_tokens, input_index = np.zeros((g, e, s), np.int64), np.zeros((g, e, s), np.int64)
    seen, targets = np.full((g, e), -1, np.int64), np.zeros((g, e, t), np.int64)
    evidence: list[tuple[int, int, int]] = []
    found = np.zeros((g, e), bool)
    for k, episode in enumerate(episodes):
        seen[k, : len(episode.sees)] = episode.sees
        if episode.row.found:
            found[k, : len(episode.sees)] = episode.row.found[episode.first : episode.first + len(episode.sees)]
        for x, (text, target) in enumerate(zip(episode.inputs, episode.targets, strict=True)):
            i = texts.row[text]
            input_text[k, x] = i
            input_tokens[k, x, : len(text)] = text
            input_index[k, x, : len(text)] = texts.start[i] + np.arange(len(text))
            targets[k, x, : len(target)] = target
            evidence += [(k, x, j) for j in episode.row.evidence[episode.first + x]]
    return {
        "input_text": torch.from_numpy(input_text),
        "input_tokens": torch.from_numpy(input_tokens),
        "input_index": torch.from_numpy(input_index),
        "input_before": torch.from_numpy(_before(input_tokens)),
        "sees": torch.from_numpy(seen),
        "targets": torch.from_numpy(targets),
        "packed": torch.from_numpy(pad([np.flatnonzero(row) for row in targets.reshape(g, -1)], value=e * t)),
        "evidence": torch.tensor(evidence, dtype=torch.long).view(-1, 3),
        "found": torch.from_numpy(found),
        "rows": [[(k, episode.first + x) for x in range(len(episode.sees))] for k, episode in enumerate(episodes)],
    }


def _memory(episodes: Sequence[_Columns], texts: _Texts) -> dict[str, Any]:
    """Entries, and their tokens behind the null slot."""
    g, n = len(episodes), max(len(x.entries) for x in episodes)
    m = 1 + max(sum(map(len, x.entries)) for x in episodes) if n else 0
    entry_text, entry_kind = np.zeros((g, n), np.int64), np.full((g, n), -1, np.int64)
    tokens, index, entry = (np.zeros((g, m), np.int64) for _ in range(3))
    before = np.zeros((g, m, BACK), np.int64)
    for k, episode in enumerate(episodes):
        slot = 1
        for j, text in enumerate(episode.entries):
            i = texts.row[text]
            entry_text[k, j], entry_kind[k, j] = i, episode.kinds[j]
            here = slice(slot, slot + len(text))
            tokens[k, here], entry[k, here] = text, j
            index[k, here] = texts.start[i] + np.arange(len(text))
            before[k, here] = _before(tokens[k, here])
            slot += len(text)
    arrays = {"entry_text": entry_text, "entry_kind": entry_kind, "memory_tokens": tokens, "memory_index": index}
    return {name: torch.from_numpy(a) for name, a in {**arrays, "memory_entry": entry, "memory_before": before}.items()}
