"""How a companion remembers as its memory grows: lives of the test split among what was told of others, in a real store."""

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from memgpt_cli.bench.facts import Report
from memgpt_cli.data.companion.life import ABSTAINING, Life
from memgpt_cli.data.companion.telling import BOT, USER
from memgpt_cli.data.dialogue import Turn, confirmed
from memgpt_cli.data.sources import find_source, make_options
from memgpt_cli.data.sources.companion import CompanionOptions
from memgpt_cli.errors import UsageError
from memgpt_cli.inference.session import Question, Session
from memgpt_cli.schema import Entry, Example

NAMESPACE = "companion"
TOLD = 12  # in each life
ASKED = 12  # before anything is forgotten


@dataclass
class Row:
    """What was answered beside so many other entries. Shares in percent; `+` marks wordings that training never held."""

    others: int
    asked: int
    exact: dict[str, float]  # by ability
    false_memories: float  # questions of what was never told, or is forgotten, that were answered with something
    leaks: int  # answers that said a value that had been forgotten and that the question does not name
    after_forgetting: int  # questions of what had been forgotten
    conversation: float  # of the questions, answered right where all that was told had been told to the assistant itself
    answer_ms: float


@dataclass
class _Tally:
    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    invented: list[bool] = field(default_factory=list)
    conversation: list[bool] = field(default_factory=list)
    leaks: int = 0
    forgotten: int = 0
    seconds: float = 0.0

    def row(self, others: int) -> Row:
        asked = sum(map(len, self.right.values()))
        exact = {ability: 100 * sum(right) / len(right) for ability, right in sorted(self.right.items())}
        exact["all"] = 100 * sum(map(sum, self.right.values())) / max(1, asked)
        invented = 100 * sum(self.invented) / max(1, len(self.invented))
        conversation = 100 * sum(self.conversation) / max(1, len(self.conversation))
        return Row(
            others, asked, exact, invented, self.leaks, self.forgotten, conversation, 1000 * self.seconds / max(1, asked)
        )


def measure_companion(
    session: Session, sizes: list[int], lives: int, seed: int, report: Report = lambda stage, n: None
) -> list[Row]:
    """One row a size. Raises UsageError for a run of other data."""
    data = session.config.data
    if data.source != "companion":
        raise UsageError(f"{session.name} was trained on '{data.source}': memgpt bench companion asks a run of data=companion")
    options = make_options(find_source("companion"), data.options)
    assert isinstance(options, CompanionOptions)
    languages = options.languages
    rows = []
    for size in sizes:
        rng, tally = random.Random(f"{seed}/companion"), _Tally()  # the same lives at every size
        with tempfile.TemporaryDirectory() as folder:
            session.attach(str(Path(folder) / "m.sqlite"), NAMESPACE, create=True)
            others = islice(_of_others(languages, seed), size)
            while told := list(islice(others, 4096)):
                session.store.put(NAMESPACE, session.encoder.items(told))
                report(f"telling {size:,} other things", session.store.stats(NAMESPACE).entries)
            for n in range(lives):
                life = Life(rng, languages[n % len(languages)], "test", known=n % 4 < 2, only=options.relations)
                _live(session, life, tally)
                report(f"{size:,} other entries: life", n)
            session.close()
        rows.append(tally.row(size))
    return rows


def _of_others(languages: Iterable[str], seed: int) -> Iterator[Entry]:
    """What is told of other people and things, none of which a life of the test split knows: names of another split."""
    rng = random.Random(f"{seed}/others")
    lives = [Life(rng, language, "valid", known=True) for language in languages]
    while True:
        for life in lives:
            yield Entry(life.told_of_another()[1], "turn", {"speaker": BOT})


def _live(session: Session, life: Life, tally: _Tally) -> None:
    """One life stands in memory, is asked, forgotten in part, and asked again; then all of it is forgotten, told and asked."""
    life.live(TOLD)
    entries = list(life.dialogue.entries)
    before = life.quiz(ASKED)
    ids = [session.store.put(NAMESPACE, session.encoder.items([entry])).ids[0] for entry in entries]
    _ask(session, before, tally)
    later = life.after_forgetting("")
    left = list(later.entries)
    gone = []
    for entry, number in zip(entries, ids, strict=True):
        if left and left[0] is entry:
            left.pop(0)
        else:
            gone.append(number)
    session.forget(gone)
    _ask(session, later.examples, tally, life.values_lost)
    session.forget([number for number in ids if number not in set(gone)])
    told = _tell(session, life)
    for example in before:
        tally.conversation.append(session.answer([Question(example.input)])[0].text.strip() == example.target)
    session.forget(told)


def _tell(session: Session, life: Life) -> list[int]:
    """Tells the assistant what it is told in this life; it remembers what its own replies confirm. The entries' ids."""
    keeps, ids = session.config.data.chat.keeps, []
    for example in life.examples:
        if example.target.startswith(keeps):
            (reply,) = session.answer([Question(example.input)])
            if memory := confirmed(Turn(USER, example.input), Turn(BOT, reply.text.strip()), keeps):
                ids += session.store.put(NAMESPACE, session.encoder.items([memory.entry])).ids
    return ids


def _ask(session: Session, examples: Iterable[Example], tally: _Tally, lost: frozenset[str] = frozenset()) -> None:
    for example in examples:
        began = time.monotonic()
        said = session.answer([Question(example.input)])[0].text.strip()
        tally.seconds += time.monotonic() - began
        right = said == example.target
        tally.right[example.task].append(right)
        ability = example.task.rstrip("+")
        if ability in ABSTAINING:
            tally.invented.append(not right and not _abstains(said))
        if ability == "after forgetting":
            tally.forgotten += 1
            named = example.input + example.target  # a role is "my sister" in the one and "your sister" in the other
            tally.leaks += any(value in said and value not in named for value in lost)


def _abstains(said: str) -> bool:
    return "not told me" in said or "没告诉" in said
