"""How a message comes to be typed: in a hurry, with a slip of the hand, or about something else."""

import random
import re

from memgpt_cli.data.companion.values import strange_word, words_of


def hurried(text: str, rng: random.Random) -> str:
    """Some words left out (of Chinese, characters): what is understood by few words is understood in other ones."""
    parts = re.findall(r"\{[^}]*\}(?:['’]s)?|[A-Za-z'’]+|\s+|.", text)
    share = rng.uniform(0.05, 0.25)
    kept = [part for part in parts if "{" in part or part.isspace() or rng.random() >= share]
    return re.sub(r"\s+", " ", "".join(kept)).strip() or text


def slip(text: str, rng: random.Random) -> str:
    """A slip of the hand in one word that is no placeholder: a letter left out, doubled, swapped or struck wrong."""
    places = [m.start() + 1 for m in re.finditer(r"[a-z]{3}(?![a-z]*\})", text)]
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
            r"[A-Za-z]{5,}", lambda m: strange_word(m.group(), rng, "train", 0.4) if rng.random() < 0.4 else m.group(), text
        )
    at, word = rng.randint(0, max(0, len(text) - 3)), rng.choice(words_of("zh", "train"))
    return text[:at] + word + text[at + 2 :]
