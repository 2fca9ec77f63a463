"""memgpt generate and memgpt chat."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgpt_cli.cli.app import (
    RUNS_ROOT,
    ConfigDir,
    Json,
    KeyEnv,
    MemoryStore,
    Namespace,
    Overrides,
    Run,
    StoreUrl,
    app,
    console,
    key_what_is_not,
    open_recall,
    say_ignored,
    user_name,
)

if TYPE_CHECKING:
    from memgpt_cli.chat import Conversation
    from memgpt_cli.schema import Entry


@app.command(
    epilog='Example: `echo \'{"input": "city of bafa lisu please", "memory": ["bafa lisu | city | rome"]}\' | memgpt generate`'
)
def generate(
    overrides: Overrides = None,
    source: Annotated[
        str,
        typer.Option(
            "--input", "-i", help="A file, or - for standard input: a line is an input, or JSON with input, memory and kind."
        ),
    ] = "-",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of to standard output.")] = None,
    run: Run = "",
    tidy: Annotated[bool, typer.Option("--tidy", help="Remove repeated spans and stray spaces.")] = False,
    memory_store: MemoryStore = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Write an answer for every line of input, in order; with --memory from what a store holds, such as imported documents."""
    from memgpt_cli.checkpoint import find_run, load_model
    from memgpt_cli.cli.terminal import as_json_line, visible
    from memgpt_cli.config import override
    from memgpt_cli.data.batching import collate
    from memgpt_cli.errors import MemgptError, UsageError
    from memgpt_cli.files import writing
    from memgpt_cli.generation.decode import generate as decode
    from memgpt_cli.generation.postprocess import drop_repeats, tidy_spaces
    from memgpt_cli.generation.prompt import Prompter
    from memgpt_cli.ingest.text import STDIN
    from memgpt_cli.training.hardware import prepare

    place = STDIN if source == "-" else Path(source)
    if place != STDIN:
        if not place.is_file():
            raise UsageError(f"--input {source}: no such file")
        for _ in _questions(place):  # a bad line is named before the first answer is made
            pass
    folder = find_run(run, RUNS_ROOT)
    model, tokenizer, trained = load_model(folder / "model")
    config = override(trained, "generate", overrides or [], config_dir)
    prepare(model, config.trainer)
    recall = open_recall(memory_store, namespace, key_env, config, model, tokenizer, folder / "model") if memory_store else None
    device, prompter = next(model.parameters()).device, Prompter(tokenizer, config.data.limits)
    reads = [*([] if place == STDIN else [place]), folder, *(recall.store.files() if recall else [])]
    with contextlib.ExitStack() as stack:
        if recall:
            stack.enter_context(recall.store)
        target = stack.enter_context(writing(output, reads=reads)) if output else sys.stdout
        for group in _groups(_questions(place), 1 if place == STDIN else 32):
            recalled = recall.entries([question.text for question in group]) if recall else [[] for _ in group]
            prompts = []
            for question, found in zip(group, recalled, strict=True):
                try:
                    prompts.append(prompter(question.text, [*found, *question.memory]))
                except MemgptError as error:
                    raise UsageError(f"{place}:{question.line}: {error}") from error
            made = decode(model, collate([p.row for p in prompts]).to(device), config.generate)
            for question, found, prompt, ids, ended in zip(group, recalled, prompts, made.ids, made.ended, strict=True):
                answer = tokenizer.decode(ids[0])
                answer = tidy_spaces(drop_repeats(answer)) if tidy else answer
                for note in prompt.notes:
                    console(stderr=True).print(f"{place}:{question.line}: {note}", style="yellow", markup=False)
                row = {"input": question.text, "output": answer, "complete": ended[0], "notes": prompt.notes}
                if recall:
                    row["recalled"] = [e.text for e in found]
                print(as_json_line(row) if as_json else visible(answer.replace("\n", "\\n")), file=target, flush=True)


@dataclass(frozen=True)
class Question:
    line: int
    text: str
    memory: "list[Entry]"


def _questions(place: Path) -> "Iterator[Question]":
    """The inputs of a file, or of standard input; raises UsageError naming the line that is none."""
    from memgpt_cli.errors import DataError, UsageError
    from memgpt_cli.ingest.text import read_lines

    def stop(error: DataError, record: object) -> None:
        raise UsageError(str(error)) from error

    for number, line in read_lines(place, stop):
        if line.strip():
            try:
                yield _parse(line, number)
            except DataError as error:
                raise UsageError(str(error.at(place, number))) from error


def _groups(questions: "Iterator[Question]", size: int) -> "Iterator[list[Question]]":
    """`size` at a time; one at a time from a pipe, so that answers come as questions do."""
    while group := list(itertools.islice(questions, size)):
        yield group


def _parse(line: str, number: int) -> Question:
    """Input, memory and the memory's kind (`turn`, `chunk`, … as the model was trained on; `note` where not said)."""
    from memgpt_cli.errors import DataError, did_you_mean
    from memgpt_cli.ingest.text import parse_json
    from memgpt_cli.schema import KINDS, entry_from, unfit

    text, memory, kind = line, [], "note"
    if line.lstrip().startswith("{"):
        try:
            record = parse_json(line)
            text, memory, kind = record["input"], record.get("memory", []), record.get("kind", "note")
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
    return Question(number, text, [entry_from(m, kind) for m in memory])


@app.command(epilog="Example: `memgpt chat --namespace anna`; `printf 'hello\\n/quit\\n' | memgpt chat --store my.sqlite`")
def chat(
    overrides: Overrides = None,
    run: Run = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    new: Annotated[bool, typer.Option("--new", help="Begin a new conversation instead of going on with the last one.")] = False,
    config_dir: ConfigDir = None,
) -> None:
    """Talk with a trained model. What is said, and what you tell it to remember, survives a restart."""
    from memgpt_cli.cli.repl import run_repl

    run_repl(open_conversation(run, store, namespace, overrides or [], config_dir, key_env), new, console())


def open_conversation(
    run: str, store: str, namespace: str, overrides: list[str], config_dir: Path | None, key_env: str = ""
) -> "Conversation":
    from memgpt_cli.chat import Conversation, read_knowledge
    from memgpt_cli.checkpoint import find_run, fingerprint, load_model
    from memgpt_cli.config import override
    from memgpt_cli.data.preprocess import bundled_folder
    from memgpt_cli.memory import open_store
    from memgpt_cli.training.hardware import prepare

    folder = find_run(run, RUNS_ROOT)
    model, tokenizer, trained = load_model(folder / "model")
    config = override(trained, "chat", overrides, config_dir)
    prepare(model, config.trainer)
    say_ignored(folder / "model")
    knowledge = []
    if name := config.data.chat.knowledge:
        typed = Path(name).expanduser()
        places = [bundled_folder(config.data.source) / name, folder / "model" / name, typed]
        if name != trained.data.chat.knowledge:  # what is typed here comes first
            places.insert(0, typed)
        knowledge = read_knowledge(next((place for place in places if place.is_file()), typed))
    memory = open_store(store or config.memory.store, fingerprint(folder / "model"), key_env or config.memory.key_env)
    owner = namespace or config.memory.namespace or user_name()
    conversation = Conversation(
        model, tokenizer, memory, owner, config.data.chat, config.generate, config.memory.recall, knowledge, config.data.limits
    )
    conversation.reads = [folder, *memory.files(), *([typed] if config.data.chat.knowledge else [])]
    memory.expire(owner)
    key_what_is_not(memory, owner, conversation.encoder)
    return conversation
