"""A dialogue as a model reads it, while it grows: the last messages are the input, what is older is memory.

The same lines make the examples of training and what a chat's next reply reads.
"""

from typing import Any, NamedTuple

from memgpt_cli.schema import Entry, render_triple


class Turn(NamedTuple):
    speaker: str
    text: str
    evidence: tuple[str, ...] = ()  # texts of facts this message rests on


class Fact(NamedTuple):
    text: str
    meta: dict[str, Any]


def render_turn(speaker: str, text: str) -> str:
    return f"{speaker}: {text}" if speaker else text


def fact(head: str, relation: str, tail: str) -> Fact:
    return Fact(render_triple(head, relation, tail), {"triple": [head, relation, tail]})


class Dialogue:
    """Messages, and the facts that became known between them, in order.

    Args:
        window: how many messages are the input.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.entries: list[Entry] = []
        self.turns: list[Turn] = []
        self.facts: dict[str, int] = {}  # text -> entry
        self._entry_of: list[int] = []  # of each turn
        self._known = 0  # entries up to the newest fact

    def add(self, event: Turn | Fact) -> int:
        """Takes in what happened next; returns its entry. A fact that is known already is the one it was."""
        n = len(self.entries)
        if isinstance(event, Fact):
            if event.text not in self.facts:
                self.facts[event.text] = n
                self.entries.append(Entry(event.text, "fact", event.meta))
                self._known = n + 1
            return self.facts[event.text]
        self._entry_of.append(n)
        self.entries.append(Entry(render_turn(event.speaker, event.text), "turn", {"speaker": event.speaker}))
        self.turns.append(event)
        return n

    def asks(self) -> tuple[str, int]:
        """The input of the next message, and how many entries it sees.

        Up to the newest fact, or the newest message older than the input, whichever is later: never itself, never what
        comes after it.
        """
        older = self._entry_of[-self.window] if len(self.turns) >= self.window else 0
        source = "\n".join(render_turn(t.speaker, t.text) for t in self.turns[-self.window :])
        return source, max(self._known, older)
