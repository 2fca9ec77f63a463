"""Settings of data, as frozen dataclasses that check themselves: where it comes from, and how it is cleaned, cut and read."""

import os
import re
from dataclasses import dataclass, field
from typing import Any

from memgpt_cli.errors import ConfigError, did_you_mean
from memgpt_cli.files import plain_name
from memgpt_cli.schema import check_bounds

MANY = 1 << 31
_PASSWORD = re.compile(r"://[^/?]*:[^/?@]*@|[?&][^=&]*password=", re.IGNORECASE)


def choice(place: str, value: str, *allowed: str) -> None:
    """Raises ConfigError where a setting is none of the values it may have."""
    if value not in allowed:
        raise ConfigError(f"{place} is '{value}', expected one of {', '.join(allowed)}.{did_you_mean(value, allowed)}")


@dataclass(frozen=True)
class CleanConfig:
    """What is normalised before anything else; every change is counted."""

    unicode: str = "none"  # none | NFC | NFKC
    newlines: bool = True  # \r\n and \r become \n
    duplicates: bool = True  # drop an episode equal to an earlier one of its split
    min_chars: int = 0  # drop examples whose target is shorter
    max_chars: int = 0  # drop examples whose input or target is longer; 0 sets no limit

    def __post_init__(self) -> None:
        choice("data.clean.unicode", self.unicode, "none", "NFC", "NFKC", "NFD", "NFKD")
        check_bounds("data.clean", self, min_chars=(0, MANY), max_chars=(0, MANY))


@dataclass(frozen=True)
class TokenizerConfig:
    path: str = ""  # a file, folder or hub id to use; that of model.init_from, else trained from the data, where empty
    revision: str = ""  # of the hub's repository
    add: tuple[
        str, ...
    ] = ()  # tokens a pretrained tokenizer shall have besides its own, as in data.tokenizer.add=["#Person1#"]
    vocab_size: int = 1000  # pieces of the tokenizer that is trained, at most
    coverage: float = 0.9999  # share of the characters that get a piece of their own; bytes stand in for the rarest
    characters: bool = False  # those of scripts without spaces are pieces of their own, so that names are cut alike everywhere
    sample_mb: int = 20  # text of the training split it is trained on, at most

    def __post_init__(self) -> None:
        check_bounds("data.tokenizer", self, vocab_size=(1, 1 << 20), sample_mb=(1, 10_000), coverage=(0.9, 1))


@dataclass(frozen=True)
class LimitConfig:
    """Lengths in tokens, and what happens to what is longer: always counted, never silent."""

    input: int = 512  # tokens of an input
    target: int = 256  # tokens of a target
    entry: int = 128  # tokens of an entry
    on_long_input: str = "truncate"  # truncate (keeps the end) | drop | stop
    on_long_target: str = "truncate"  # truncate (keeps the beginning) | drop | stop
    on_long_entry: str = "split"  # split | stop

    def __post_init__(self) -> None:
        for what in ("input", "target"):
            choice(f"data.limits.on_long_{what}", getattr(self, f"on_long_{what}"), "truncate", "drop", "stop")
        choice("data.limits.on_long_entry", self.on_long_entry, "split", "stop")
        check_bounds("data.limits", self, input=(4, 65_536), target=(4, 65_536), entry=(4, 65_536))


@dataclass(frozen=True)
class RenameConfig:
    """Renames names and values consistently within an episode, so that copying is learnt, not lists."""

    relations: tuple[str, ...] = ()  # of facts whose tails are renamed
    auto: bool = False  # whatever targets copy from what is read is renamed; data.augment.rename=auto says the same
    probability: float = 0.5  # that an episode is renamed, each time it is seen

    def __post_init__(self) -> None:
        check_bounds("data.augment.rename", self, probability=(0, 1))


@dataclass(frozen=True)
class AugmentConfig:
    rename: RenameConfig = field(default_factory=RenameConfig)


@dataclass(frozen=True)
class ChatConfig:
    """How a conversation with a model of this data is set up."""

    user: str = "user"  # what the person is called in a turn
    bot: str = "bot"  # what the model is called in a turn
    turns: int = 2  # messages that are the input; older ones are memory
    keeps: tuple[str, ...] = ()  # where not empty, only what a reply says behind one of these becomes memory
    silence: str = ""  # what an empty line says
    lookup: str = ""  # a reply that begins so names values: facts whose heads have them all are recalled, nothing else is
    knowledge: str = (
        ""  # a file of facts that every conversation may look up: "head relation<TAB>tail" lines, bundled or a path
    )

    def __post_init__(self) -> None:
        check_bounds("data.chat", self, turns=(1, 10_000))


@dataclass(frozen=True)
class CorpusConfig:
    """Entries that belong to no episode and that every example may read; and how many of them an example brings into its batch."""

    path: str = (
        ""  # a file, a folder, a glob, a store's URL, or own: what the training examples read; data.corpus=PATH says the same
    )
    namespace: str = ""  # of the store; the user's name where empty
    chunk: int = 400  # characters of an entry, at most, where text is cut
    evidence: int = 4  # entries that support its target, at most
    words: int = 4  # others that share its words
    vectors: int = 4  # others that the model finds nearest itself
    random: int = 2  # any others

    def __post_init__(self) -> None:
        if _PASSWORD.search(self.path):
            raise ConfigError(
                "data.corpus has a password in it, which the run's settings would keep: give it by ~/.pgpass or PGPASSWORD"
            )
        if self.path and "://" not in self.path:  # docs and docs/ are one
            object.__setattr__(self, "path", os.path.normpath(self.path))
        check_bounds("data.corpus", self, chunk=(8, 65_536), evidence=(0, 4096), words=(0, 4096), vectors=(0, 4096))
        check_bounds("data.corpus", self, random=(0, 65_536))

    @property
    def own(self) -> bool:
        """Whether it is made of the entries that the training examples have: it makes choosing hard, and answers nothing later."""
        return self.path == "own"

    @property
    def brings(self) -> int:
        """Entries that an example brings, at most."""
        return self.evidence + self.words + self.vectors + self.random


@dataclass(frozen=True)
class DataConfig:
    name: str = "companion"  # of the folder in data/
    source: str = "companion"  # the reader (memgpt.sources)
    path: str = ""  # the folder that holds the files; bundled for those of the package
    files: dict[str, Any] = field(default_factory=dict)  # split -> file names or globs below path
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    distractors: int = 0  # entries of others that a question reads beside the context it comes with, at least
    hold_out: dict[str, Any] = field(default_factory=dict)  # split -> share of the episodes taken from `train`
    options: dict[str, Any] = field(default_factory=dict)  # the source's own
    clean: CleanConfig = field(default_factory=CleanConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    limits: LimitConfig = field(default_factory=LimitConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    metrics: tuple[str, ...] = ("exact", "f1")  # that memgpt eval shows where none is named
    on_error: str = "stop"  # stop | quarantine
    seed: int = 1  # of what is made up or held out, and of the tokenizer

    def __post_init__(self) -> None:
        plain_name(self.name, "data.name")
        rename = self.augment.rename
        if self.corpus.path and not self.corpus.own and (rename.relations or rename.auto):
            raise ConfigError("data.augment.rename renames what an episode holds, and no corpus: leave one of the two out")
        plain_name(self.source, "data.source")
        choice("data.on_error", self.on_error, "stop", "quarantine")
        check_bounds("data", self, seed=(0, MANY), distractors=(0, 65_536))
