"""From an input and its entries to the episode a model reads: the rules and limits of the run's own data, once.

What training reads is made by the same parts: turns become an input and entries in `data.dialogue`, long entries are split
and long inputs cut by `data.clean.Limiter`, and everything becomes ids in `data.dataset.encode`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from memgpt_cli.config import DataConfig
from memgpt_cli.data.clean import Cleaner, Limiter
from memgpt_cli.data.dataset import EncodedEpisode, Seen, encode
from memgpt_cli.errors import UsageError
from memgpt_cli.inference.encoder import Name
from memgpt_cli.schema import Entry, Episode, Example
from memgpt_cli.store import Stored
from memgpt_cli.tokenizer import EOS, Tokenizer

MEMORY_TOKENS = 1 << 16
"""Read beside one input, at most: time and room grow with them."""


class Prompt(NamedTuple):
    episode: EncodedEpisode
    entries: tuple[Entry, ...]  # as they are read: a long one is several
    stored: tuple[Stored | None, ...]  # what each of them is of
    names: Mapping[tuple[int, ...], Name]  # of their ids, EOS included, where they are stored
    notes: list[str]  # what was cut, split or left out, in words


def as_entry(stored: Stored) -> Entry:
    return Entry(stored.text, stored.kind, stored.meta)


class Prompter:
    """Builds prompts by the rules a model was trained with: nobody can be asked again, so what is too long is cut or split.

    Args:
        data: the settings of the run's data: how texts are cleaned, and how long they may be.
        seen: what the examples of the run's data saw. An entry of a kind that none of them held is read as one of the
            commonest: nothing has been learned of the other.
    """

    def __init__(self, tokenizer: Tokenizer, data: DataConfig, seen: Seen = Seen()) -> None:  # noqa: B008  frozen
        self.tokenizer, self.seen = tokenizer, seen
        self.limits = replace(data.limits, on_long_input="truncate", on_long_entry="split")
        self.clean = Cleaner(data.clean, Counter()).text

    def cut_input(self, text: str) -> tuple[str, list[str]]:
        """The text, or the end of it that the model can read, and what is to be said of that."""
        text = self.clean(text)
        cut = self._limiter().cut_input(text)
        said = f"the input is longer than the {self.limits.input} tokens this model reads: its end was read"
        return cut, [said] if cut != text else []

    def _limiter(self) -> Limiter:
        return Limiter(self.limits, self.tokenizer, Counter())

    def __call__(self, text: str, given: Sequence[Entry | Stored], newest: bool = False) -> Prompt:
        """One input over its entries.

        Args:
            newest: where the entries are too many, the last ones are read; else UsageError is raised.
        """
        text, notes = self.cut_input(text)
        plain = (as_entry(e) if isinstance(e, Stored) else e for e in given)
        entries, first = self._limiter().entries([replace(e, text=self.clean(e.text)) for e in plain])
        spans = list(zip(given, first, first[1:], strict=False))
        if split := sum(b - a > 1 for _, a, b in spans):
            notes.append(f"{split} of the entries are longer than {self.limits.entry} tokens: each was read as several")
        episode = encode(Episode("prompt", tuple(entries), (Example(text, "", len(entries)),)), self.tokenizer)
        sizes = [sum(len(ids) + 1 for ids in episode.entry_ids[a:b]) for _, a, b in spans]
        if sum(sizes) > MEMORY_TOKENS:
            left_out = self._left_out(sizes, newest)
            notes = [f"{left_out} older entries were left out: at most {MEMORY_TOKENS:,} tokens are read at once", *notes]
            read = self(text, given[left_out:])
            return read._replace(notes=list(dict.fromkeys([*notes, *read.notes])))
        names = {
            (*episode.entry_ids[n], EOS): Name(e.id, e.version, n - a)
            for e, a, b in spans
            if isinstance(e, Stored)
            for n in range(a, b)
        }
        stored = [e if isinstance(e, Stored) else None for e, a, b in spans for _ in range(a, b)]
        kinds = [self._kind(kind) for kind in episode.kinds]
        return Prompt(replace(episode, kinds=kinds), tuple(entries), tuple(stored), names, notes)

    def _kind(self, kind: str) -> str:
        return kind if not self.seen.kinds or kind in self.seen.kinds else self.seen.kinds[0]

    @staticmethod
    def _left_out(sizes: Sequence[int], newest: bool) -> int:
        """How many entries there are before the last ones that may be read together."""
        if not newest:
            raise UsageError(
                f"its memory has {sum(sizes):,} tokens, at most {MEMORY_TOKENS:,} are read at once: "
                "memgpt memory import keeps it in a store, of which --store recalls what fits"
            )
        first, total = len(sizes), 0
        while first and total + sizes[first - 1] <= MEMORY_TOKENS:
            first, total = first - 1, total + sizes[first - 1]
        return first
