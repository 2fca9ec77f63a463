"""Making output presentable: off for scoring unless asked for."""

import re

from memgpt_cli.scripts import CJK
from memgpt_cli.tokenizer import Tokenizer


def drop_repeats(text: str) -> str:
    """Collapses a span of 4 characters or more that is said three times or more in a row."""
    return re.sub(r"(.{4,}?)(?:\s*\1){2,}", r"\1", text, flags=re.DOTALL)


def tidy_spaces(text: str) -> str:
    """Removes spaces before closing punctuation and between Chinese characters, and runs of spaces."""
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" +([,.!?;:%)\]}])", r"\1", text)
    return re.sub(rf"(?<=[{CJK}]) +(?=[{CJK}])", "", text).strip()


class StreamDecoder:
    """Text as it grows from ids; a character whose bytes are not all there yet is held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.ids, self.shown = tokenizer, list[int](), ""

    def add(self, token: int) -> str:
        """What is new to show."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids)
        if text.endswith("\ufffd"):
            return ""
        new, self.shown = text[len(self.shown) :], text
        return new

    def rest(self) -> str:
        return self.tokenizer.decode(self.ids)[len(self.shown) :]
