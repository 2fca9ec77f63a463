"""From a file or folder of the user's to the settings that read it: the reader by looking, the fields by their names."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from memgpt_cli.config import choices
from memgpt_cli.errors import DataError, UsageError
from memgpt_cli.files import slug
from memgpt_cli.ingest.json_values import parse_json, read_json_records
from memgpt_cli.ingest.table import read_csv_records, read_parquet
from memgpt_cli.ingest.text import Reject, plain_suffix, read_text

FIELDS = {
    "input": (
        "input",
        "question",
        "query",
        "prompt",
        "instruction",
        "source",
        "src",
        "text",
        "utterance",
        "document",
        "article",
    ),
    "target": (
        "target",
        "answer",
        "output",
        "response",
        "reply",
        "summary",
        "completion",
        "translation",
        "tgt",
        "label",
        "answers",
    ),
    "memory": (
        "memory",
        "context",
        "contexts",
        "passage",
        "passages",
        "facts",
        "knowledge",
        "evidence",
        "history",
        "documents",
    ),
    "references": ("references", "answers", "targets"),
}
"""What people call the fields of a record, the likeliest first."""
MESSAGES = {"messages": ("messages", "conversation", "conversations", "dialogue", "turns"), "speaker": ("role", "speaker", "from", "who"), "text": ("content", "text", "value", "message")}  # fmt: skip
RECORDS, TEXTS = (".csv", ".tsv", ".parquet", ".jsonl", ".json"), (".txt", ".md")
SPLITS = {"train": ("train", "training", "trn"), "valid": ("valid", "validation", "val", "dev"), "test": ("test", "tst")}


def is_own(value: str) -> bool:
    """Whether `data=VALUE` names a file or folder, and no preset."""
    if value in choices("data"):  # ./NAME is a folder all the same
        return False
    path = Path(value).expanduser()
    return path.is_file() or path.is_dir() or plain_suffix(path) in (*RECORDS, *TEXTS)


def guess(value: str, given: Sequence[str] = ()) -> tuple[list[str], str]:
    """Overrides that read the user's data, and in words how it is read.

    Args:
        given: the overrides that are there already; what they say is not guessed.

    Raises:
        UsageError: there is nothing there, or nothing that can be read without being told more.
    """
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"data={value}: no such file or folder")
    files = _files(path)
    first = next(iter(files.values()))[0]
    source, options = _source(first, {o.partition("=")[0] for o in given})
    one_text = source == "text" and len(files["train"]) == 1  # its parts belong together
    shares = {split: 0 if split in files or one_text else 0.1 for split in ("valid", "test")}
    root = first if first == path and path.is_dir() else first.parent
    named = {split: [str(p.relative_to(root)) if p != root else "." for p in paths] for split, paths in files.items()}
    lists = ", ".join(f"{split}: [{', '.join(map(quoted, names))}]" for split, names in named.items())
    held = ", ".join(f"{split}: {share}" for split, share in shares.items())
    overrides = [
        f"data={source}", f"data.name={quoted(slug(path.stem))}", f"data.path={quoted(str(root))}",
        f"data.files={{{lists}}}", f"data.hold_out={{{held}}}", *(f"data.{k}={quoted(v)}" if k.startswith("chat.") else f"data.options.{k}={quoted(v)}" for k, v in options.items()),
    ]  # fmt: skip
    read = ", ".join(f"{name} from '{field}'" for name, field in options.items())
    said = f"{path.name} is read as {source}" + (f": {read}" if read else "")
    held_out = [split for split, share in shares.items() if share]
    said += "; a tenth is held out for " + " and for ".join(held_out) if held_out else "; nothing is held out" * one_text
    return overrides, said + " (data.options.… and data.hold_out say otherwise)"


def quoted(value: str) -> str:
    """Text as an override takes it, whatever it holds."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _files(path: Path) -> dict[str, list[Path]]:
    """The files of each split: a folder's by their names, and otherwise all of one kind as training data."""
    if path.is_file() or (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return {"train": [path]}
    inside = sorted(p for p in path.iterdir() if p.is_file() and plain_suffix(p) in (*RECORDS, *TEXTS))
    found = {
        split: [p for p in inside if p.name.partition(".")[0].lower().replace("_", "-").split("-")[0] in names]
        for split, names in SPLITS.items()
    }
    if found["train"]:
        return {split: files for split, files in found.items() if files}
    for kinds in (RECORDS, TEXTS):
        for kind in kinds:
            if files := [p for p in inside if plain_suffix(p) == kind]:
                return {"train": files}
    raise UsageError(
        f"{path} holds nothing to learn from: expected {', '.join((*RECORDS, *TEXTS))} files, or a `datasets` folder"
    )


def _source(path: Path, given: set[str]) -> tuple[str, dict[str, str]]:
    """The source that reads a file, and its options."""
    suffix = plain_suffix(path)
    if path.is_dir():
        return "records", {}
    if suffix in TEXTS:
        return "text", {}
    if suffix == ".json" and isinstance(whole := _whole(path), dict) and isinstance(whole.get("data"), list):
        return "squad", {}
    record = _first(path, suffix)
    names = {str(name).lower(): str(name) for name in record}
    for field in MESSAGES["messages"]:
        messages = record.get(names.get(field, ""))
        if isinstance(messages, list) and messages and isinstance(messages[0], dict):
            return "dialogue", _dialogue(names[field], messages)
    options: dict[str, str] = {}
    over_corpus = any(name in given for name in ("data.corpus", "data.corpus.path"))  # of which `evidence` names entries
    for option in FIELDS:
        taken = {*options.values(), *([names["evidence"]] if over_corpus and "evidence" in names else [])}
        field = next((names[n] for n in FIELDS[option] if n in names and names[n] not in taken), "")
        if not field or f"data.options.{option}" in given:
            continue
        options["references" if option == "target" and isinstance(record[field], list) else option] = field
    for option in ("input", "target"):
        there = option in options or (option == "target" and "references" in options)
        if not there and f"data.options.{option}" not in given:
            raise UsageError(
                f"{path.name}: which field is the {option}? Found {', '.join(map(str, record))}: say data.options.{option}=FIELD"
            )
    return "records", options


def _dialogue(field: str, messages: list[dict[str, Any]]) -> dict[str, str]:
    options = {"messages": field}
    for option in ("speaker", "text"):
        options[option] = next((name for name in MESSAGES[option] if name in messages[0]), MESSAGES[option][0])
    speakers = {str(m.get(options["speaker"])) for m in messages}
    bot = next((name for name in ("assistant", "bot", "gpt", "system") if name in speakers), "")
    if bot:
        other = next((name for name in sorted(speakers) if name != bot), "user")
        options |= {"reply": bot, "chat.bot": bot, "chat.user": other}
    return options


def _stop(path: Path) -> Reject:
    def reject(error: DataError, record: Any) -> None:
        raise error.at(path)

    return reject


def _whole(path: Path) -> Any:
    if path.stat().st_size > 64 << 20:
        return None
    try:
        return parse_json(read_text(path), lines=True)
    except DataError:
        return None


def _first(path: Path, suffix: str) -> dict[str, Any]:
    """The first record of a table."""
    if suffix == ".parquet":
        rows = read_parquet(path, _stop(path), ())
    elif suffix in (".csv", ".tsv"):
        rows = read_csv_records(path, _stop(path), "\t" if suffix == ".tsv" else ",")
    else:
        rows = read_json_records(path, _stop(path))
    for _, record in islice(rows, 1):
        return record
    raise UsageError(f"{path} holds no record")
