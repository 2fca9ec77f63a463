"""memgpt generate and memgpt chat."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    user_name,
)

if TYPE_CHECKING:
    from memgpt_cli.chat import Conversation


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
    from memgpt_cli.config import override
    from memgpt_cli.data.batching import collate
    from memgpt_cli.data.dataset import encode_row
    from memgpt_cli.errors import UsageError
    from memgpt_cli.generation.decode import generate as decode
    from memgpt_cli.generation.postprocess import drop_repeats, tidy_spaces
    from memgpt_cli.schema import Episode, Example, entry_from
    from memgpt_cli.training.hardware import prepare

    if source != "-" and not Path(source).is_file():
        raise UsageError(f"--input {source}: no such file")
    model, tokenizer, trained = load_model(find_run(run, RUNS_ROOT) / "model")
    config = override(trained, "generate", overrides or [], config_dir)
    prepare(model, config.trainer)
    recall = None
    if memory_store:
        folder = find_run(run, RUNS_ROOT) / "model"
        recall = open_recall(memory_store, namespace, key_env, config, model, tokenizer, folder)
    target = open(output, "w", encoding="utf-8") if output else sys.stdout
    lines = open(source, encoding="utf-8") if source != "-" else sys.stdin
    try:
        for group in _groups(lines, 1 if source == "-" else 32):
            rows, recalled = [], recall.entries([text for _, (text, _, _) in group]) if recall else [[]] * len(group)
            for (number, (text, memory, kind)), found in zip(group, recalled, strict=True):
                entries = (*found, *(entry_from(m, kind) for m in memory))
                episode = Episode(str(number), entries, (Example(text, "", len(entries)),))
                rows.append(encode_row(episode, tokenizer))
            made = decode(model, collate(rows).to(next(model.parameters()).device), config.generate)
            for (_, (text, _, _)), found, ids, ended in zip(group, recalled, made.ids, made.ended, strict=True):
                answer = tokenizer.decode(ids[0])
                answer = tidy_spaces(drop_repeats(answer)) if tidy else answer
                row = {"input": text, "output": answer, "complete": ended[0]}
                if recall:
                    row["recalled"] = [e.text for e in found]
                print(json.dumps(row, ensure_ascii=False) if as_json else answer.replace("\n", "\\n"), file=target, flush=True)
    finally:
        if recall:
            recall.store.close()
        if output:
            target.close()


def _groups(lines: Any, size: int) -> Iterator[list[tuple[int, tuple[str, list[str], str]]]]:
    """Inputs with their memory, `size` at a time; one at a time from a pipe, so that answers come as questions do."""
    group: list[tuple[int, tuple[str, list[str], str]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        group.append((number, _parse(line.rstrip("\n"), number)))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _parse(line: str, number: int) -> tuple[str, list[str], str]:
    """Input, memory and the memory's kind (`turn`, `chunk`, … as the model was trained on; `note` where not said)."""
    from memgpt_cli.errors import UsageError, did_you_mean
    from memgpt_cli.schema import KINDS

    if not line.lstrip().startswith("{"):
        return line, [], "note"
    try:
        record = json.loads(line)
        text, memory, kind = record["input"], record.get("memory", []), record.get("kind", "note")
    except (json.JSONDecodeError, KeyError) as error:
        raise UsageError(f'line {number} begins with {{ but is no {{"input": …, "memory": […]}}: {error}') from error
    if not isinstance(text, str) or not isinstance(memory, list) or not all(isinstance(m, str) for m in memory):
        raise UsageError(f"line {number}: expected input to be text and memory a list of texts")
    if kind not in KINDS:
        raise UsageError(f"line {number}: '{kind}' is no kind of entry.{did_you_mean(str(kind), KINDS)}")
    return text, memory, kind


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
    knowledge = []
    if name := config.data.chat.knowledge:
        bundled = bundled_folder(config.data.source) / name
        knowledge = read_knowledge(bundled if bundled.is_file() else Path(name))
    memory = open_store(store or config.memory.store, fingerprint(folder / "model"), key_env or config.memory.key_env)
    owner = namespace or config.memory.namespace or user_name()
    conversation = Conversation(
        model, tokenizer, memory, owner, config.data.chat, config.generate, config.memory.recall, knowledge
    )
    memory.expire(owner)
    key_what_is_not(memory, owner, conversation.encoder)
    return conversation
