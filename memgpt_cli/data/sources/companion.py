"""The companion: an assistant that remembers what it is told, in English and Chinese (`memgpt_cli/data/companion`)."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memgpt_cli.data.companion.life import Life
from memgpt_cli.data.companion.wordings import LANGUAGES, WORDS, relations
from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import ConfigError, did_you_mean
from memgpt_cli.schema import Episode


@dataclass(frozen=True)
class CompanionOptions:
    """
    tells, tells_min: how many things are told in an episode, at most and at least.
    episodes_train, episodes_valid, episodes_test: how many lives.
    language: en | zh | both (half of each).
    forgetting: share of the lives that are asked once more after a quarter of what was told has been forgotten.
    invented: share of training's names and values that are made up, some in part; the others are from lists.
    beside: share of training's lives that begin with memory of other things and people, up to `others` entries of them.
    relations: what can be told, by the ids in `words/`; everything where empty.
    """

    tells: int = 32
    tells_min: int = 4
    episodes_train: int = 8000
    episodes_valid: int = 60
    episodes_test: int = 200
    language: str = "both"
    forgetting: float = 0.15
    invented: float = 0.35
    beside: float = 0.2
    others: int = 80
    relations: tuple[str, ...] = ()

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that lives are told in, in turn."""
        return LANGUAGES if self.language == "both" else (self.language,)

    def __post_init__(self) -> None:
        for name in self.relations:
            if name not in relations():
                raise ConfigError(f"data.options.relations: '{name}' is none.{did_you_mean(name, relations())}")
        if self.language not in (*LANGUAGES, "both"):
            raise ConfigError(f"data.options.language is '{self.language}', expected {', '.join(LANGUAGES)} or both")
        if not 1 <= self.tells_min <= self.tells:
            raise ConfigError(f"data.options.tells_min is {self.tells_min}, expected 1 to {self.tells} (tells)")
        for name in ("forgetting", "invented", "beside"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.options.{name} is {getattr(self, name)}, expected 0 to 1")


def generate_companion(path: object, options: CompanionOptions, where: Where) -> Iterator[Episode]:
    """Lives of one split; of validation and test, every other one in wordings that training holds, all with their own names."""
    rng = random.Random(f"{where.seed}/companion/{where.split}")
    languages = options.languages
    for n in range(getattr(options, f"episodes_{where.split}")):
        language = languages[n % len(languages)]
        life = Life(rng, language, where.split, known=n % 4 < 2, only=options.relations, invented=options.invented)
        if where.split == "train" and rng.random() < options.beside:
            life.beside(round(options.others ** rng.uniform(0.3, 1)), languages)
        share = rng.random() ** (2 if where.split == "train" else 1)  # short lives teach as much, and more of them fit a batch
        life.live(options.tells_min + int(share * (options.tells - options.tells_min + 1)))
        yield life.episode(f"companion/{where.split}/{n}")
        if rng.random() < (options.forgetting if where.split == "train" else 1):
            yield life.after_forgetting(f"companion/{where.split}/{n}/forgotten")


def _words(options: CompanionOptions, files: Sequence[Path]) -> Sequence[Path]:
    return sorted(WORDS.glob("*.yaml"))


COMPANION = Source(generate_companion, CompanionOptions, needs_file=False, extra_files=_words)
