"""Consistent renaming within an episode: the values of chosen relations become words nobody has ever seen.

Without it a model learns the ten cuisines of its training data by heart and copies nothing.
"""

import random
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from memgpt_cli.config import RenameConfig
from memgpt_cli.schema import Episode, parse_triple, render_triple

_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "ch",
    "sh",
    "th",
    "br",
    "kr",
    "st",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ie", "ou"]
_CODAS = ["", "", "", "", "", *["n", "r", "s", "l", "m", "ng", "nd", "se", "k", "t", "y"]]


def invent(value: str, rng: random.Random) -> str:
    """A made-up value in the script of `value`: syllables for letters, characters for Chinese, digits for digits."""
    out = []
    for run in re.findall(r"[^\W\d_]+|\d+|[\W_]+", value):
        if run.isdigit():
            out.append("".join(rng.choice("0123456789") for _ in run))
        elif "CJK" in unicodedata.name(run[0], ""):
            out.append("".join(chr(rng.randint(0x4E00, 0x8FFF)) for _ in run))
        elif run.isalpha():
            word = "".join(
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 2, 3)))
            )
            out.append(word.capitalize() if run[0].isupper() else word)
        else:
            out.append(run)
    return "".join(out)


def values_of(episodes: Iterable[Episode], relations: tuple[str, ...]) -> list[str]:
    """The different values these relations take anywhere in the data, the longest first."""
    values = set()
    for episode in episodes:
        for entry in episode.entries:
            triple = parse_triple(entry.text) if entry.kind == "fact" else None
            if triple and triple[1] in relations:
                values.add(triple[2])
    return sorted(values, key=lambda v: (-len(v), v))


class Renamer:
    """Renames known values in whole episodes. A value counts where no letter or digit touches it ("_" may)."""

    def __init__(self, config: RenameConfig, values: list[str]) -> None:
        self.config = config
        whole = "|".join(re.escape(v) for v in sorted(values, key=lambda v: -len(v)))
        self._find = re.compile(rf"(?<![^\W_])(?:{whole})(?![^\W_])") if values else None

    def __call__(self, episode: Episode, rng: random.Random) -> Episode:
        """The episode renamed with the configured probability; relation names are never touched."""
        if self._find is None or rng.random() >= self.config.probability:
            return episode
        names: dict[str, str] = {}

        def new_name(match: re.Match[str]) -> str:
            old = match.group()
            if old not in names:
                names[old] = next(n for n in iter(lambda: invent(old, rng), None) if n not in names.values())
            return names[old]

        def rename(text: str) -> str:
            return self._find.sub(new_name, text) if self._find else text

        entries = []
        for entry in episode.entries:
            triple = parse_triple(entry.text) if entry.kind == "fact" else None
            text = render_triple(rename(triple[0]), triple[1], rename(triple[2])) if triple else rename(entry.text)
            entries.append(replace(entry, text=text))
        examples = [
            replace(x, input=rename(x.input), target=rename(x.target), references=tuple(map(rename, x.references)))
            for x in episode.examples
        ]
        return replace(episode, entries=tuple(entries), examples=tuple(examples))
