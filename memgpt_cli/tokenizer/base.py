"""What every tokenizer does. Ids follow T5: 0 pads and starts a target, 1 ends a text, 2 is unknown."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

PAD, EOS, UNK = 0, 1, 2
FILES = ("tokenizer.model", "tokenizer.json", "spiece.model", "tokenizer_config.json")
"""Every file that a tokenizer's `save` may write."""


class Tokenizer(ABC):
    lossless = False  # whether decode(encode(text)) == text for any text

    @abstractmethod
    def __len__(self) -> int:
        """How many ids there are."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of everything that decides which ids a text gets."""

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without a closing EOS; one call is several times faster than many."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text; control ids are left out."""

    @abstractmethod
    def piece(self, i: int) -> str:
        """What an id stands for."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what `load` reads."""

    def encode(self, text: str) -> list[int]:
        """Ids without a closing EOS."""
        return self.encode_all([text])[0]
