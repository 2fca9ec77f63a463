"""Dialogues: one example a reply. The last `turns` messages are its input, everything older is memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgpt_cli.data.dialogue import Dialogue, Fact, Turn, fact
from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import ConfigError, DataError
from memgpt_cli.ingest.json_values import parse_json, read_json_records, text_field
from memgpt_cli.ingest.text import read_lines, read_text
from memgpt_cli.schema import Episode, Example


@dataclass(frozen=True)
class DialogueOptions:
    """
    turns: how many messages are the input; older ones are entries.
    keeps: where not empty, only what a reply says behind one of these becomes an entry; a bare one keeps the message.
    reply: the speaker whose messages are targets; empty for every speaker.
    messages, speaker, text, knowledge: field names of the generic format.
    knowledge_base: a JSON file of triples for the whole data, {head: [[head, relation, tail], …]} or a list.
    knowledge_from: past (what a real system could know: the triples already said) | dialogue (the triples annotated
        anywhere in the dialogue, future turns included: the protocol of KdConv's "+know" models, an oracle).
    """

    turns: int = 2
    keeps: tuple[str, ...] = ()
    reply: str = ""
    messages: str = "messages"
    speaker: str = "role"
    text: str = "content"
    knowledge: str = "knowledge"
    knowledge_base: str = ""
    knowledge_from: str = "past"

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ConfigError(f"data.options.turns is {self.turns}, expected at least 1")
        if self.knowledge_from not in ("past", "dialogue"):
            raise ConfigError(f"data.options.knowledge_from is '{self.knowledge_from}', expected past or dialogue")


def dialogue_episode(name: str, events: Iterable[Turn | Fact], options: DialogueOptions, task: str = "dialogue") -> Episode:
    """An episode from what happened in a dialogue, in order: messages and the facts that became known between them."""
    dialogue, examples = Dialogue(options.turns, options.keeps), []
    for event in events:
        if isinstance(event, Turn) and dialogue.turns and (not options.reply or event.speaker == options.reply):
            source, sees = dialogue.asks()
            evidence = tuple(n for f in event.evidence if (n := dialogue.facts.get(f, sees)) < sees)
            examples.append(Example(source, event.text, sees, evidence=evidence, task=task))
        dialogue.add(event)
    return Episode(name, tuple(dialogue.entries), tuple(examples))


def read_dialog_babi(path: Path, options: DialogueOptions, where: Where) -> Iterator[Episode]:
    """Dialog bAbI (Bordes and Weston, arXiv 1605.07683): `ID user<TAB>bot` lines; a line without a tab is a fact."""
    events: list[Turn | Fact] = []
    number, start = 0, 1

    def close() -> Iterator[Episode]:
        if events:
            yield dialogue_episode(f"{path.name}:{start}", events, options)

    for number, line in read_lines(path, where.reject):
        if not line.strip():
            yield from close()
            events, start = [], number + 1
            continue
        try:
            _, _, rest = line.partition(" ")
            if not line.split(" ", 1)[0].isdigit() or not rest:
                raise DataError("expected 'ID text'")
            if "\t" in rest:
                user, _, bot = rest.partition("\t")
                events += [Turn("user", user), Turn("bot", bot)]
            else:
                parts = rest.split(" ", 2)
                if len(parts) != 3:
                    raise DataError(f"expected a tab between user and bot, or a fact of three words, found {rest[:60]!r}")
                events.append(fact(*parts))
        except DataError as error:
            where.reject(error.at(path, number), line)
    yield from close()


def load_knowledge_base(path: str) -> list[Fact]:
    """Facts of a JSON knowledge base: a list of triples, or {head: [triple or [relation, tail], …]}."""
    if not path:
        return []
    file = Path(path).expanduser()
    try:
        data = parse_json(read_text(file), lines=True)
        heads = data if isinstance(data, dict) else {"": data}
        rows = [[head, *row][-3:] if isinstance(row, list) else row for head, rows in heads.items() for row in _listed(rows)]
        return list({triple.text: triple for triple in map(_triple, rows)}.values())
    except DataError as error:
        raise error.at(file) from error


def _listed(rows: Any) -> list[Any]:
    if not isinstance(rows, list):
        raise DataError(
            f"a knowledge base is a list of triples, or an object with such a list for each head; found {str(rows)[:80]}"
        )
    return rows


def _knowledge(turn_facts: list[list[Fact]], base: list[Fact], options: DialogueOptions) -> list[Fact]:
    """Facts that stand before the first message."""
    if options.knowledge_from == "dialogue":
        return base + [f for facts in turn_facts for f in facts]
    return base


def _with_facts(messages: list[Turn], turn_facts: list[list[Fact]], first: list[Fact]) -> Iterator[Turn | Fact]:
    """Messages and their facts in order: what a message rests on is known once it was said, not before."""
    yield from first
    for turn, facts in zip(messages, turn_facts, strict=True):
        yield turn._replace(evidence=tuple(f.text for f in facts))
        yield from facts


def read_kdconv(path: Path, options: DialogueOptions, where: Where) -> Iterator[Episode]:
    """KdConv (Zhou et al., ACL 2020): Chinese dialogues whose messages carry the triples they rest on."""
    base = load_knowledge_base(options.knowledge_base)

    def make(number: int, record: dict[str, Any]) -> Episode:
        messages = record.get("messages")
        if not isinstance(messages, list):
            raise DataError("field 'messages' is missing or no list")
        turns, facts = [], []
        for n, message in enumerate(messages):
            turns.append(Turn("AB"[n % 2], text_field(message, "message")))
            facts.append(
                [fact(*(text_field(a, k) for k in ("name", "attrname", "attrvalue"))) for a in message.get("attrs") or ()]
            )
        events = _with_facts(turns, facts, _knowledge(facts, base, options))
        return dialogue_episode(f"{path.parent.name}/{path.name}:{number}", events, options)

    yield from where.each(read_json_records(path, where.reject), path, make)


def read_duconv(path: Path, options: DialogueOptions, where: Where) -> Iterator[Episode]:
    """DuConv (Wu et al., ACL 2019): knowledge and goal are given with the dialogue and stand before it."""

    def make(number: int, record: dict[str, Any]) -> Episode:
        said = record.get("conversation")
        if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
            raise DataError("field 'conversation' is missing or no list of texts")
        facts = [_triple(triple) for triple in [*record.get("goal", ()), *record.get("knowledge", ())]]
        turns = [Turn("AB"[n % 2], text) for n, text in enumerate(said)]
        return dialogue_episode(f"{path.name}:{number}", [*facts, *turns], options)

    yield from where.each(read_json_records(path, where.reject), path, make)


def read_dialogue(path: Path, options: DialogueOptions, where: Where) -> Iterator[Episode]:
    """Generic dialogues: JSON or JSONL records with a list of messages, each with a speaker, a text, and perhaps triples."""
    base = load_knowledge_base(options.knowledge_base)

    def make(number: int, record: dict[str, Any]) -> Episode:
        messages = record.get(options.messages)
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise DataError(f"field '{options.messages}' is missing or no list of objects")
        turns = [Turn(text_field(m, options.speaker), text_field(m, options.text)) for m in messages]
        facts = [[_triple(t) for t in m.get(options.knowledge) or ()] for m in messages]
        given = [_triple(t) for t in record.get(options.knowledge) or ()]
        events = _with_facts(turns, facts, _knowledge(facts, base + given, options))
        return dialogue_episode(f"{path.name}:{number}", events, options)

    yield from where.each(read_json_records(path, where.reject), path, make)


def _triple(value: Any) -> Fact:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(isinstance(part, str) for part in value):
        raise DataError(f"a triple of three texts expected, found {str(value)[:80]}")
    return fact(*value)


def _knowledge_base(options: DialogueOptions, files: Sequence[Path]) -> list[Path]:
    return [Path(options.knowledge_base).expanduser()] if options.knowledge_base else []


DIALOGUE = Source(read_dialogue, DialogueOptions, extra_files=_knowledge_base)
DIALOG_BABI = Source(read_dialog_babi, DialogueOptions)
KDCONV = Source(read_kdconv, DialogueOptions, extra_files=_knowledge_base)
DUCONV = Source(read_duconv, DialogueOptions)
