"""JSON, JSON Lines and lists of records from files that nobody vouches for; what is broken loses nothing behind it."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memgpt_cli.errors import DataError
from memgpt_cli.ingest.text import MAX_LINE_BYTES, Reject, open_text, plain_suffix, read_lines, read_text

MAX_JSON_BYTES = 256 << 20
"""Of a JSON text that is one value: as objects it takes many times its size. JSON Lines and lists have no such limit."""


class _Decoder(json.JSONDecoder):
    """A decoder that notes what Python would take and JSON, or anybody after us, does not."""

    def __init__(self) -> None:
        self.problem = ""
        super().__init__(parse_int=self._integer, parse_float=self._number, parse_constant=self._constant)

    def _integer(self, digits: str) -> int:
        if len(digits) > 300:
            self.problem = f"an integer of {len(digits):,} digits"
            return 0
        return int(digits)

    def _number(self, digits: str) -> float:
        if math.isinf(value := float(digits)):
            self.problem = f"the number {digits[:20]} is too large"
        return value

    def _constant(self, name: str) -> float:
        self.problem = f"{name}, which is no JSON"
        return 0.0

    def read(self, text: str, start: int = 0) -> tuple[Any, int]:
        """The value at `start` and where it ends; `problem` says what is wrong with a value that ends all the same."""
        self.problem = ""
        found, end = self.raw_decode(text, start)
        if not self.problem and _SURROGATE.search(text, start, end) and not _whole_characters(found):
            self.problem = "half of a surrogate pair (\\ud83d without its other half)"
        return found, end


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\r\n]*")


def _whole_characters(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken(error: Exception, lines: bool = False) -> DataError:
    if not isinstance(error, json.JSONDecodeError):
        return DataError("broken JSON: nested too deeply")
    return DataError(f"broken JSON: {error.msg} at column {error.colno}", line=error.lineno if lines else None)


def parse_json(text: str, lines: bool = False) -> Any:
    """The value of a JSON text; raises DataError, with the line in the text where `lines` is set."""
    decoder = _Decoder()
    try:
        found, end = decoder.read(text, _SPACE.match(text).end())  # type: ignore[union-attr]
        if (rest := _SPACE.match(text, end).end()) < len(text):  # type: ignore[union-attr]
            raise json.JSONDecodeError("Extra data", text, rest)
    except (ValueError, RecursionError) as error:
        raise _broken(error, lines) from error
    if decoder.problem:
        raise DataError(f"broken JSON: {decoder.problem}")
    return found


def read_json_records(path: Path, reject: Reject) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON Lines file, whatever it is called, or of one JSON list; each with the line it begins at."""
    numbered = _json_values(path, reject)
    for number, record in numbered:
        if isinstance(record, dict):
            yield number, record
        else:
            reject(DataError(f"expected a JSON object, found {kind_of(record)}", path, number), record)


def _json_values(path: Path, reject: Reject) -> Iterator[tuple[int, Any]]:
    try:
        first, lines = _beginning(path)
    except DataError as error:
        reject(error.at(path, 1), None)
        return
    if first == "[" or (first == "{" and plain_suffix(path) == ".json" and not lines):
        try:
            whole = read_text(path)
            if first == "{" and len(whole) > MAX_JSON_BYTES:
                raise DataError(f"one JSON value of more than {MAX_JSON_BYTES:,} characters: make it JSON Lines")
        except DataError as error:
            reject(error.at(path), None)
            return
        yield from _json_list(whole, path, reject) if first == "[" else _json_whole(whole, path, reject)
        return
    for number, line in read_lines(path, reject):
        if line.strip():
            try:
                yield number, parse_json(line)
            except DataError as error:
                reject(error.at(path, number), line[:1000])


def _beginning(path: Path) -> tuple[str, bool]:
    """The first character, and whether an object there is followed by others, a line each."""
    first, objects, lines = "", 0, 0
    with open_text(path) as text:
        for line in (text.readline(MAX_LINE_BYTES) for _ in range(8)):
            if not line.strip():
                continue
            first, lines = first or line.strip()[:1], lines + 1
            if first == "[":
                break
            try:
                objects += isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                continue
            if objects and lines > 1:
                break
    return first, bool(objects) and lines > 1


def _json_whole(text: str, path: Path, reject: Reject) -> Iterator[tuple[int, Any]]:
    try:
        yield 1, parse_json(text, lines=True)
    except DataError as error:
        reject(error.at(path), None)


_BROKEN = 20_000
"""Broken records of one list, at most."""
_PIECE, _WHOLE = 1 << 16, 50
"""Python counts the lines before an error, so a record is read from a piece of the text; from all of it only so often."""
_KEY = re.compile(r'\{\s*"[^"\\\n]{0,80}"\s*:')


class _List:
    """The values of a JSON list. After a broken one the reading goes on where the next one begins as the others do."""

    def __init__(self, text: str) -> None:
        self.text, self.decoder = text, _Decoder()
        self.broken = self.whole = 0
        self.start = ""  # how the first object begins: the others do as well

    def after(self, position: int) -> int:
        return _SPACE.match(self.text, position).end()  # type: ignore[union-attr]

    def next_start(self, begin: int) -> int:
        """Where the next object begins, or -1."""
        key = _KEY.match(self.text, begin)
        self.start = self.start or (key.group() if key else "")
        return self.text.find(self.start, begin + 1) if self.start and self.broken < _BROKEN else -1

    def value(self, begin: int, following: int) -> tuple[Any, int]:
        """The value at `begin`, and the place of the comma or bracket after it; raises ValueError or RecursionError."""
        ends = [following] if 0 < following - begin < _PIECE else []
        for end in (*ends, begin + _PIECE, len(self.text)):
            last = end >= len(self.text)
            if end > begin + _PIECE:
                self.whole += bool(self.broken)
                if self.whole > _WHOLE:
                    break
            piece = self.text[begin:end]
            try:
                found, size = self.decoder.read(piece)
                place = self.after(begin + size)
                if self.text[place : place + 1] in (",", "]"):
                    return found, place
                problem: Exception = json.JSONDecodeError("Expecting ',' or ']'", piece, size)
            except json.JSONDecodeError as error:
                problem = error
            cut_off = problem.pos >= len(piece) - 1 or problem.msg.startswith("Unterminated")  # type: ignore[attr-defined]
            if not cut_off or last:
                break
        raise problem


def _json_list(text: str, path: Path, reject: Reject) -> Iterator[tuple[int, Any]]:
    reader = _List(text)
    line, counted = 1, 0

    def at(position: int) -> int:
        nonlocal line, counted
        line, counted = line + text.count("\n", counted, position), position
        return line

    place = reader.after(text.index("[") + 1)
    while place < len(text) and text[place] != "]":
        begin, number, following = place, at(place), reader.next_start(place)
        try:
            value, end = reader.value(begin, following)
        except (ValueError, RecursionError) as error:
            reader.broken += 1
            lost = f"; what follows it, {len(text) - begin:,} characters, could not be read" if following < 0 else ""
            reject(DataError(_broken(error).reason + lost, path, number), text[begin : begin + 1000])
            if following < 0:
                return
            place = following
            continue
        if reader.decoder.problem:
            reject(DataError(f"broken JSON: {reader.decoder.problem}", path, number), text[begin : begin + 1000])
        else:
            yield number, value
        place = reader.after(end + 1) if text[end] == "," else end
    if place >= len(text):
        reject(DataError("the JSON list is not closed: the file is cut off", path, at(len(text))), None)


def kind_of(value: Any) -> str:
    """What JSON calls it (numbers and lists by Python's names)."""
    return {type(None): "null", dict: "object", str: "text", bool: "true or false"}.get(type(value), type(value).__name__)


def text_field(record: dict[str, Any], name: str) -> str:
    """A required text field; raises DataError naming it and what stands there instead."""
    if name not in record:
        raise DataError(f"field '{name}' is missing, found {', '.join(sorted(map(str, record))) or 'nothing'}")
    value = record[name]
    if not isinstance(value, str):
        raise DataError(f"field '{name}' is {kind_of(value)}, expected text")
    return value
