"""From an input and its entries to what the model reads, within the limits of the run's own data; what was cut is said."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from memgpt_cli.config import LimitConfig
from memgpt_cli.data.clean import Limiter
from memgpt_cli.data.dataset import encode_row
from memgpt_cli.errors import UsageError
from memgpt_cli.schema import Entry, Episode, Example
from memgpt_cli.tokenizer import Tokenizer

MEMORY_TOKENS = 1 << 16
"""Read beside one input, at most: time and room grow with them."""


class Prompt(NamedTuple):
    row: dict[str, Any]  # as `collate` takes it
    entries: tuple[Entry, ...]  # as they are read: a long one is several
    notes: list[str]  # what was cut, split or left out, in words


class Prompter:
    """Builds prompts by the limits a model was trained with: nobody can be asked again, so what is too long is cut or split."""

    def __init__(self, tokenizer: Tokenizer, limits: LimitConfig) -> None:
        self.tokenizer = tokenizer
        self.limits = replace(limits, on_long_input="truncate", on_long_entry="split")

    def cut_input(self, text: str) -> tuple[str, list[str]]:
        """The text, or the end of it that the model can read, and what is to be said of that."""
        limited, counts = self._limited(text, ())
        cut = limited.examples[0].input
        return cut, [
            f"the input is longer than the {self.limits.input} tokens this model reads: its end was read"
        ] if counts else []

    def __call__(self, text: str, entries: Sequence[Entry], newest: bool = False) -> Prompt:
        """One input over its entries.

        Args:
            newest: where the entries are too many, the last ones are read; else UsageError is raised.
        """
        text, notes = self.cut_input(text)
        limited, counts = self._limited(text, tuple(entries))
        if split := sum(counts.values()):
            notes.append(f"{split} of the entries are longer than {self.limits.entry} tokens: each was read as several")
        row = encode_row(limited, self.tokenizer)
        sizes = [len(ids) + 1 for ids in row["entry_ids"]]
        if sum(sizes) <= MEMORY_TOKENS:
            return Prompt(row, limited.entries, notes)
        if not newest:
            raise UsageError(
                f"its memory has {sum(sizes):,} tokens, at most {MEMORY_TOKENS:,} are read at once: "
                "memgpt memory import keeps it in a store, of which --memory recalls what fits"
            )
        first, total = len(sizes), 0
        while first and total + sizes[first - 1] <= MEMORY_TOKENS:
            first, total = first - 1, total + sizes[first - 1]
        notes.append(f"{first} older entries were left out: at most {MEMORY_TOKENS:,} tokens are read at once")
        return self(text, limited.entries[first:])._replace(notes=notes)

    def _limited(self, text: str, entries: tuple[Entry, ...]) -> tuple[Episode, Counter[str]]:
        counts: Counter[str] = Counter()
        limited = Limiter(self.limits, self.tokenizer, counts)(Episode("prompt", entries, (Example(text, "", len(entries)),)))
        assert limited is not None  # nothing is dropped
        return limited, counts
