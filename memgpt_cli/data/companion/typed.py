"""How a message comes to be typed: with something before or after it, in a hurry, with a slip of the hand."""

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from memgpt_cli.data.companion.values import strange_word, words_of

_ARE = {"am": "are", "was": "were"}
_WE: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\bI['’]m\b", "we're"), (r"\bi['’]?m\b", "we're"), (r"\b[Ii]['’](ve|ll|d)\b", r"we'\1"),
    (r"\b[Ii] (am|was)\b", lambda m: "we " + _ARE[m[1]]), (r"\b(am|was) [Ii]\b", lambda m: _ARE[m[1]] + " we"),
    (r"\b[Ii]\b", "we"), (r"\b[Mm]y\b", "our"), (r"\bme\b", "us"), (r"\b[Mm]ine\b", "ours"), (r"\bmyself\b", "ourselves"),
)  # fmt: skip


def typed(
    wording: str,
    rng: random.Random,
    phrases: Mapping[str, Any],
    *,
    question: bool,
    hurry: bool,
    noise: float,
    sometimes: Mapping[str, float] | None = None,
) -> str:
    """The wording as somebody types it.

    Args:
        hurry: whether words may be left out. They are not of what asks for a time, which would ask for something else
            without the word for it, nor of what is not learned from.
        noise: probability of a slip of the hand.
        sometimes: lists of `phrases` of which one may come before the wording, each with its probability.
    """
    text = wording
    before = {"before_questions" if question else "openings": 0.15, **(sometimes or {})}
    if chosen := [kind for kind, often in before.items() if not kind.endswith("_after") and rng.random() < often]:
        text = _after(rng.choice(phrases[rng.choice(chosen)]), text)
    if rng.random() < before.get("times_after", 0):
        text = text.rstrip("。.？?！!") + rng.choice(phrases["times_after"])
    if rng.random() < 0.15:
        text = text.rstrip("。.？?！!") + rng.choice(phrases["after_questions" if question else "closings"])
    if hurry and rng.random() < 0.08:
        text = hurried(text, rng)
    if rng.random() < noise:
        text = slip(text, rng)
    if rng.random() < 0.1:
        text = text.rstrip("。.？?！!")
    if rng.random() < 0.08:
        text = re.sub(r"[^{}]+(?![^{]*})", lambda m: m.group().lower(), text)
    return text


def _after(opening: str, text: str) -> str:
    keeps = text.startswith(("{", "I ", "I'")) or opening.endswith((". ", "! "))
    return opening + (text if keeps else text[0].lower() + text[1:])


def as_we(text: str, language: str) -> str:
    """The same told or asked by one of several: "Our dog", "Where do we live?"."""
    if language == "zh":
        return re.sub(r"我(?!们)", "我们", text)
    for pattern, other in _WE:
        text = re.sub(pattern, other, text)
    return text[0].upper() + text[1:] if text[0].isalpha() else text


def hurried(text: str, rng: random.Random) -> str:
    """Some words left out (of Chinese, characters): what is understood by few words is understood in other ones."""
    parts = re.findall(r"\{[^}]*\}(?:['’]s)?|[A-Za-z'’]+|\s+|.", text)
    share = rng.uniform(0.05, 0.2)
    kept = [part for part in parts if "{" in part or part.isspace() or rng.random() >= share]
    return re.sub(r"\s+", " ", "".join(kept)).strip() or text


def slip(text: str, rng: random.Random) -> str:
    """A slip of the hand in one word that is no placeholder: a letter left out, doubled, swapped or struck wrong."""
    places = [m.start() + 1 for m in re.finditer(r"[a-z]{3}(?![a-z_]*\})", text)]
    if not places:
        return text
    at = rng.choice(places)
    a, b = text[at], text[at + 1]
    struck = rng.choice((b, a + a + b, b + a, rng.choice("abcdefghijklmnopqrstuvwxyz") + b))
    return text[:at] + struck + text[at + 2 :]


def changed(text: str, rng: random.Random, language: str) -> str:
    """A sentence with some of its longer words changed (of Chinese, two characters): for what tells nothing, whatever it names."""
    if language == "en":
        return re.sub(
            r"[A-Za-z]{5,}",
            lambda m: strange_word(m.group(), rng, words_of("en", "train"), 0.4) if rng.random() < 0.4 else m.group(),
            text,
        )
    at, word = rng.randint(0, max(0, len(text) - 3)), rng.choice(words_of("zh", "train"))
    return text[:at] + word + text[at + 2 :]
