"""Cleaning and length limits: what was changed, split, truncated or dropped is counted by reason."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memgpt_cli.config import CleanConfig, LimitConfig
from memgpt_cli.errors import DataError
from memgpt_cli.ingest.chunk import split_text
from memgpt_cli.schema import Entry, Episode, Example
from memgpt_cli.tokenizer import Tokenizer

LONGEST_PIECE = 256
"""Characters: no piece of a tokenizer has more."""


class Hashes:
    """A set of hashes in 8 bytes each: those lately added in a set, the others in a sorted array."""

    def __init__(self, recent: int = 100_000) -> None:
        self._recent: set[int] = set()
        self._older = np.zeros(0, np.int64)
        self._most = recent

    def add(self, value: int) -> bool:
        """False where it was there already. `value` is what `hash` gives: 64 bits, signed."""
        at = int(np.searchsorted(self._older, value))
        if value in self._recent or (at < len(self._older) and self._older[at] == value):
            return False
        self._recent.add(value)
        if len(self._recent) >= self._most:
            self._older = np.sort(np.concatenate([self._older, np.fromiter(self._recent, np.int64, len(self._recent))]))
            self._recent = set()
        return True


class Cleaner:
    """Applies CleanConfig to one split's episodes."""

    def __init__(self, config: CleanConfig, counts: Counter[str]) -> None:
        self.config, self.counts = config, counts
        self._seen = Hashes()

    def text(self, text: str) -> str:
        clean = text
        if self.config.newlines:
            clean = clean.replace("\r\n", "\n").replace("\r", "\n")
        if clean != text:
            self.counts["newlines normalised"] += 1
        if self.config.unicode != "none":
            normal = unicodedata.normalize(self.config.unicode, clean)  # type: ignore[arg-type]
            if normal != clean:
                self.counts["unicode normalised"] += 1
            clean = normal
        return clean

    def __call__(self, episode: Episode) -> Episode | None:
        """The clean episode, or None where all of it was dropped."""
        entries = tuple(replace(e, text=self.text(e.text)) for e in episode.entries)
        examples = []
        for example in episode.examples:
            target, source = self.text(example.target), self.text(example.input)
            if len(target) < self.config.min_chars:
                self.counts["examples dropped: target too short"] += 1
            elif self.config.max_chars and max(len(target), len(source)) > self.config.max_chars:
                self.counts["examples dropped: longer than clean.max_chars"] += 1
            else:
                references = tuple(self.text(r) for r in example.references)
                examples.append(replace(example, input=source, target=target, references=references))
        if not examples:
            return None
        if self.config.duplicates:
            key = hash((tuple(e.text for e in entries), tuple((x.input, x.target, x.sees) for x in examples)))
            if not self._seen.add(key):
                self.counts["episodes dropped: exact duplicate"] += 1
                return None
        return replace(episode, entries=entries, examples=tuple(examples))


class Limiter:
    """Applies LimitConfig; lengths are in tokens and exclude the closing EOS."""

    def __init__(self, config: LimitConfig, tokenizer: Tokenizer, counts: Counter[str]) -> None:
        self.config, self.tokenizer, self.counts = config, tokenizer, counts

    def _length(self, text: str, limit: int) -> int:
        """Tokens of the text; where its bytes fit the limit and bound them (a normalising tokenizer may make more), their number."""
        size = len(text.encode()) + 1
        return size if size <= limit and self.tokenizer.lossless else len(self.tokenizer.encode(text))

    def __call__(self, episode: Episode) -> Episode | None:
        """The episode within its limits, or None where every example was dropped; raises DataError for on_long_*=stop."""
        entries, first = self.entries(episode.entries)
        examples = [x for example in episode.examples if (x := self._example(example, first)) is not None]
        return replace(episode, entries=tuple(entries), examples=tuple(examples)) if examples else None

    def entries(self, entries: Sequence[Entry]) -> tuple[list[Entry], list[int]]:
        """Entries split where they are too long, and where each one now begins (and, last, where all end)."""
        out: list[Entry] = []
        first = []
        for entry in entries:
            first.append(len(out))
            length = self._length(entry.text, self.config.entry)
            if length <= self.config.entry:
                out.append(entry)
                continue
            if self.config.on_long_entry == "stop":
                raise DataError(f"an entry of {length} tokens, limits.entry is {self.config.entry}: {entry.text[:60]!r}")
            parts = split_text(entry.text, lambda text: self._length(text, self.config.entry) <= self.config.entry)
            self.counts["entries split: longer than limits.entry"] += 1
            short = {
                k: v for k, v in entry.meta.items() if len(str(v)) < 1000
            }  # what repeats the text is not repeated with each part
            out += [replace(entry, text=part, meta={**short, "part": n}) for n, part in enumerate(parts)]
        first.append(len(out))
        return out, first

    def _example(self, example: Example, first: list[int]) -> Example | None:
        evidence = tuple(n for e in example.evidence for n in range(first[e], first[e + 1]))
        changes = {}
        for what, keep_end in (("input", True), ("target", False)):
            limit, action = getattr(self.config, what), getattr(self.config, f"on_long_{what}")
            text = getattr(example, what)
            length = self._length(text, limit)
            if length <= limit:
                continue
            if action == "stop":
                raise DataError(f"an {what} of {length} tokens, limits.{what} is {limit}: {text[:60]!r}")
            if action == "drop":
                self.counts[f"examples dropped: {what} longer than limits.{what}"] += 1
                return None
            changes[what] = self._truncate(text, limit, keep_end)
            self.counts[f"{what}s truncated to limits.{what}"] += 1
        references = example.references or ((example.target,) if "target" in changes else ())
        return replace(example, sees=first[example.sees], evidence=evidence, references=references, **changes)

    def cut_input(self, text: str) -> str:
        """The text, or the end of it that is within the limit."""
        return (
            text
            if self._length(text, self.config.input) <= self.config.input
            else self._truncate(text, self.config.input, True)
        )

    def _truncate(self, text: str, limit: int, keep_end: bool) -> str:
        """The longest end (or beginning) of the text within the limit, found by bisection over characters."""
        most = limit * LONGEST_PIECE  # so that a text of megabytes is not cut into pieces twenty times
        text = text[-most:] if keep_end else text[:most]
        low, high = 1, len(text)
        while low < high:
            size = (low + high + 1) // 2
            part = text[-size:] if keep_end else text[:size]
            low, high = (size, high) if self._length(part, limit) <= limit else (low, size - 1)
        return text[-low:] if keep_end else text[:low]
