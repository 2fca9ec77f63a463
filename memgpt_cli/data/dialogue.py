"""A dialogue as a model reads it, while it grows: the last messages are the input, what is older is memory.

The same lines make the examples of training and what a chat's next reply reads.
"""

from collections.abc import Sequence
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
        keeps: where not empty, only messages whose reply begins with one of these become memory.
    """

    def __init__(self, window: int, keeps: Sequence[str] = ()) -> None:
        self.window, self.keeps = window, tuple(keeps)
        self.entries: list[Entry] = []
        self.event_of: list[int] = []  # of each entry: which event it was, in order
        self.turns: list[Turn] = []
        self.facts: dict[str, int] = {}  # text -> entry
        self._entry_of: list[int] = []  # of each turn: the entry it is, or would have been
        self._events = 0
        self._known = 0  # entries up to the newest fact

    def add(self, event: Turn | Fact) -> None:
        """Takes in what happened next. A fact that is known already is no new entry."""
        if isinstance(event, Fact):
            if event.text not in self.facts:
                self.facts[event.text] = len(self.entries)
                self._remember(Entry(event.text, "fact", event.meta), self._events)
                self._known = len(self.entries)
        else:
            if self.keeps and self.turns and event.text.startswith(self.keeps):
                self._remember_turn(self.turns[-1], self._events - 1)
            self._entry_of.append(len(self.entries))
            self.turns.append(event)
            if not self.keeps:
                self._remember_turn(event, self._events)
        self._events += 1

    def _remember_turn(self, turn: Turn, event: int) -> None:
        self._remember(Entry(render_turn(turn.speaker, turn.text), "turn", {"speaker": turn.speaker}), event)

    def _remember(self, entry: Entry, event: int) -> None:
        self.entries.append(entry)
        self.event_of.append(event)

    def asks(self) -> tuple[str, int]:
        """The input of the next message, and how many entries it sees.

        Up to the newest fact, or the newest message older than the input, whichever is later: never itself, never what
        comes after it.
        """
        older = self._entry_of[-self.window] if len(self.turns) >= self.window else 0
        source = "\n".join(render_turn(t.speaker, t.text) for t in self.turns[-self.window :])
        return source, max(self._known, older)
