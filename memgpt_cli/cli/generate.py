"""memgpt generate."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import (
    ConfigDir,
    Json,
    KeyEnv,
    Namespace,
    OldMemory,
    Overrides,
    Run,
    StoreUrl,
    app,
    console,
    open_session,
    progress,
    store_named,
)

if TYPE_CHECKING:
    from memgpt_cli.config import ChatConfig
    from memgpt_cli.inference.session import Question, Reply, Session

AT_ONCE = 32
"""Lines of a file that are answered together; from a pipe one by one, so that answers come as questions do."""
Numbered = tuple[int, "Question"]


@app.command(
    epilog='Example: `echo \'{"input": "city of bafa lisu please", "memory": ["bafa lisu | city | rome"]}\' | memgpt generate`'
)
def generate(
    overrides: Overrides = None,
    source: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            help="A file, or - for standard input: a line is an input, or JSON with input, memory and kind, or with messages.",
        ),
    ] = "-",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of to standard output.")] = None,
    run: Run = "",
    tidy: Annotated[bool, typer.Option("--tidy", help="Remove repeated spans and stray spaces.")] = False,
    scores: Annotated[bool, typer.Option("--scores", help="The log-probability of each answer before it, and a tab.")] = False,
    nbest: Annotated[int, typer.Option("--nbest", help="So many answers for each input, by beam search.", min=1, max=256)] = 1,
    store: StoreUrl = "",
    memory: OldMemory = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Write an answer for every line of input, in order; with --store from what it holds, such as imported documents."""
    from memgpt_cli.errors import UsageError
    from memgpt_cli.files import writing
    from memgpt_cli.ingest.text import STDIN

    place = STDIN if source == "-" else Path(source)
    count = 0
    if place != STDIN:
        if not place.is_file():
            raise UsageError(f"--input {source}: no such file")
        count = sum(1 for _ in questions_of(place))  # a bad line is named before the first answer is made
    beams = [f"generate.beams={nbest}"] if nbest > 1 and not any("generate.beams=" in o for o in overrides or ()) else []
    session = open_session(
        run, [*(overrides or []), *beams], config_dir, store_named(store, namespace, memory, key_env), namespace, key_env
    )
    if nbest > max(1, session.config.generate.beams):
        raise UsageError(f"--nbest {nbest} needs as many beams, generate.beams is {session.config.generate.beams}")
    reads = [*([] if place == STDIN else [place]), *session.files]
    with session, contextlib.ExitStack() as stack:
        target = stack.enter_context(writing(output, reads=reads)) if output else sys.stdout
        report = (
            stack.enter_context(progress(f"answering {count:,}")) if count and (output or not sys.stdout.isatty()) else None
        )
        write = _Writer(target, tidy, scores, nbest, as_json, bool(session.recall))
        done = 0
        for group in _groups(questions_of(place, session), 1 if place == STDIN else AT_ONCE):
            for (line, question), reply in zip(group, _answer(session, group, place), strict=True):
                for note in reply.notes:
                    console(stderr=True).print(f"{place}:{line}: {note}", style="yellow", markup=False)
                write(question.text, reply)
            done += len(group)
            if report:
                report(f"answered of {count:,}", done)


def _answer(session: "Session", group: list[Numbered], place: Path) -> "list[Reply]":
    from memgpt_cli.errors import MemgptError, UsageError

    try:
        return session.answer([question for _, question in group])
    except UsageError:
        for line, question in group:  # which of them was it?
            try:
                session.prompt(question.text, question.memory)
            except MemgptError as error:
                raise UsageError(f"{place}:{line}: {error}") from error
        raise


class _Writer:
    """Writes answers: one a line, or JSON."""

    def __init__(self, target: IO[Any], tidy: bool, scores: bool, nbest: int, as_json: bool, recalls: bool) -> None:
        self.target, self.tidy, self.scores, self.nbest, self.as_json, self.recalls = (
            target,
            tidy,
            scores,
            nbest,
            as_json,
            recalls,
        )

    def _text(self, reply: "Reply") -> str:
        from memgpt_cli.inference.postprocess import drop_repeats, tidy_spaces

        return tidy_spaces(drop_repeats(reply.text)) if self.tidy else reply.text

    def __call__(self, asked: str, reply: "Reply") -> None:
        from memgpt_cli.cli.terminal import as_json_line, visible

        answers = [reply, *reply.others][: self.nbest]
        if not self.as_json:
            for answer in answers:
                score = f"{answer.logp:.4f}\t" if self.scores else ""
                print(score + visible(self._text(answer).replace("\n", "\\n")), file=self.target, flush=True)
            return
        row: dict[str, Any] = {"input": asked, "output": self._text(reply), "complete": reply.complete, "notes": reply.notes}
        if reply.read:
            row["rests_on"] = {k: v for k, v in reply.read[0]._asdict().items() if v is not None}  # what it attended to most
        if self.recalls:
            row["recalled"] = [entry.text for entry in reply.recalled]
        if self.scores:
            row |= {"logp": reply.logp, "null": reply.null, "read": [r._asdict() for r in reply.read]}
        if self.nbest > 1:
            row["nbest"] = [
                {"output": self._text(answer), "logp": answer.logp, "complete": answer.complete} for answer in answers
            ]
        print(as_json_line(row), file=self.target, flush=True)


def questions_of(place: Path, session: "Session | None" = None) -> Iterator[Numbered]:
    """The inputs of a file, or of standard input, by their lines; raises UsageError naming the line that is none."""
    from memgpt_cli.config import ChatConfig
    from memgpt_cli.errors import DataError, UsageError
    from memgpt_cli.ingest.text import read_lines

    kind = session.seen.kinds[0] if session and session.seen.kinds else "note"
    chat = session.config.data.chat if session else ChatConfig()

    def stop(error: DataError, record: object) -> None:
        raise UsageError(str(error)) from error

    for number, line in read_lines(place, stop):
        if line.strip():
            try:
                yield number, _parse(line, number, kind, chat)
            except DataError as error:
                raise UsageError(str(error.at(place, number))) from error


def _groups(questions: Iterator[Numbered], size: int) -> Iterator[list[Numbered]]:
    while group := list(itertools.islice(questions, size)):
        yield group


def _parse(line: str, number: int, kind: str, chat: "ChatConfig") -> "Question":
    """Input, memory and the memory's kind (`turn`, `chunk`, …; where not said, what the run's data has most of)."""
    from memgpt_cli.errors import DataError, did_you_mean
    from memgpt_cli.inference.session import Question
    from memgpt_cli.ingest.json_values import parse_json
    from memgpt_cli.schema import KINDS, Entry, entry_from, unfit

    text, memory, named = line, [], False
    if line.lstrip().startswith("{"):
        try:
            record = parse_json(line)
            if isinstance(record, dict) and "messages" in record:
                return _of_messages(record["messages"], number, chat)
            text, memory, kind = record["input"], record.get("memory", []), record.get("kind", kind)
            named = "kind" in record
        except (DataError, KeyError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f'line {number} begins with {{ but is no {{"input": …, "memory": […]}}: {reason}') from error
        if not isinstance(text, str) or not isinstance(memory, list) or not all(isinstance(m, str) for m in memory):
            raise DataError(f"line {number}: expected input to be text and memory a list of texts")
        if kind not in KINDS:
            raise DataError(f"line {number}: '{str(kind)[:40]}' is no kind of entry.{did_you_mean(str(kind), KINDS)}")
    if what := next(filter(None, map(unfit, (text, *memory))), ""):
        raise DataError(f"holds {what}")
    if not text.strip() or not all(m.strip() for m in memory):
        raise DataError("an input or an entry is empty")
    return Question(text, [Entry(m, kind) if named else entry_from(m, kind) for m in memory])


def _of_messages(messages: Any, number: int, chat: "ChatConfig") -> "Question":
    """A dialogue as training reads it: the last `chat.turns` messages are the input, older ones are memory."""
    from memgpt_cli.data.dialogue import Dialogue, Turn
    from memgpt_cli.errors import DataError
    from memgpt_cli.inference.session import Question
    from memgpt_cli.ingest.json_values import text_field
    from memgpt_cli.schema import unfit

    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise DataError(f'line {number}: expected messages to be a list of {{"role": …, "content": …}}')
    dialogue = Dialogue(chat.turns, chat.keeps)
    for message in messages:
        turn = Turn(text_field(message, "role"), text_field(message, "content"))
        if what := unfit(turn.speaker + turn.text) or ("nothing" if not turn.text.strip() else ""):
            raise DataError(f"line {number}: a message holds {what}")
        dialogue.add(turn)
    text, sees = dialogue.asks()
    return Question(text, dialogue.entries[:sees])
