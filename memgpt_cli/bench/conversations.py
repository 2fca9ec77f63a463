"""Conversations written by hand, held with a run: whether each reply says what it should, and keeps what it should."""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.bench.facts import Report
from memgpt_cli.chat.conversation import Conversation
from memgpt_cli.data.dialogue import Turn, confirmed
from memgpt_cli.errors import DataError, UsageError
from memgpt_cli.inference.session import Session
from memgpt_cli.ingest.json_values import read_json_records
from memgpt_cli.ingest.text import stop

FIELDS = {"say", "kind", "expect", "keeps"}


@dataclass(frozen=True)
class Message:
    """What is said, and what its reply must be.

    Args:
        kind: what it is counted as.
        expect: what the reply contains, all of it, in capitals or not.
        keeps: whether the reply keeps something in memory; None where it does not matter.
    """

    say: str
    kind: str
    expect: tuple[str, ...]
    keeps: bool | None


@dataclass(frozen=True)
class Wrong:
    kind: str
    say: str
    reply: str
    expect: tuple[str, ...]


@dataclass
class Held:
    """How many messages of each kind were answered right, and those that were not."""

    right: dict[str, int]
    asked: dict[str, int]
    wrong: list[Wrong]


def read_conversations(path: Path) -> list[list[Message]]:
    """`{"messages": [{"say": …, "kind": …, "expect": [...], "keeps": true | false}, …]}`, one conversation a line.

    Raises UsageError where there is no such file, DataError for a line that is none, by its number.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}: expected conversations, one JSON object a line")
    return [[_message(made, path, n) for made in _messages(record, path, n)] for n, record in read_json_records(path, stop)]


def _messages(record: dict[str, Any], path: Path, line: int) -> list[Any]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError('expected {"messages": [{"say": …}, …]}', path, line)
    return messages


def _message(made: Any, path: Path, line: int) -> Message:
    if not isinstance(made, dict) or not isinstance(made.get("say"), str):
        raise DataError('a message without "say"', path, line)
    if other := sorted(made.keys() - FIELDS):
        raise DataError(f"a message with {', '.join(other)}, expected {', '.join(sorted(FIELDS))}", path, line)
    expect, keeps = made.get("expect", []), made.get("keeps")
    if not isinstance(expect, list) or not all(isinstance(each, str) for each in expect):
        raise DataError('"expect" is a list of texts', path, line)
    if keeps not in (None, True, False):
        raise DataError('"keeps" is true or false', path, line)
    return Message(made["say"], str(made.get("kind", "message")), tuple(expect), keeps)


def hold_conversations(
    session: Session, conversations: Sequence[Sequence[Message]], report: Report = lambda stage, n: None
) -> Held:
    """Each conversation with an empty memory of its own, its messages in turn: memory is what was said before."""
    right, asked, wrong = defaultdict[str, int](int), defaultdict[str, int](int), list[Wrong]()
    chat = session.config.data.chat
    for n, messages in enumerate(conversations):
        with tempfile.TemporaryDirectory() as folder:
            session.attach(str(Path(folder) / "m.sqlite"), "conversation", create=True)
            talk = Conversation(session)
            for message in messages:
                reply = talk.reply(message.say).text.strip()
                kept = confirmed(Turn(chat.user, message.say), Turn(chat.bot, reply), chat.keeps) is not None
                said = all(each.casefold() in reply.casefold() for each in message.expect)
                asked[message.kind] += 1
                if said and message.keeps in (None, kept):
                    right[message.kind] += 1
                else:
                    wrong.append(Wrong(message.kind, message.say, reply, message.expect))
            session.close()
        report("conversations", n + 1)
    return Held({kind: right[kind] for kind in asked}, dict(asked), wrong)
