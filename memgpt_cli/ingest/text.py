"""Text and JSON from files that nobody vouches for: what cannot be read is named by its line, and loses nothing else.

Readers take a `reject(error, record)`: it raises, and ends the reading, or keeps the error, and the reading goes on.
"""

import codecs
import gzip
import io
import json
import lzma
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from memgpt_cli.errors import DataError

Reject = Callable[[DataError, Any], None]


def stop(error: DataError, record: Any) -> None:
    """The `reject` of who can do with nothing less than all of it."""
    raise error


MAX_LINE_BYTES = 8 << 20
"""A longer line is a damaged file, or no file of lines."""
MAX_FILE_BYTES = 1 << 30
"""Of a text that has to be read whole."""
MAX_JSON_BYTES = 256 << 20
"""Of a JSON text that is one value: as objects it takes many times its size. JSON Lines and lists have no such limit."""
UNPACKED_RATIO, UNPACKED_BYTES = 200, 16 << 20
"""A packed file may unfold to so many times its size, and so many bytes more: texts shrink to a tenth, bombs to a thousandth."""
STDIN = Path("standard input")


class _Unpacked(io.RawIOBase):
    """What a .gz or .xz file holds, within a bound; damage is a DataError."""

    def __init__(self, path: Path, packed: Any) -> None:
        self.path, self.packed, self.done = path, packed, 0
        self.most = UNPACKED_BYTES + UNPACKED_RATIO * path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            found: bytes = self.packed.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise DataError("the packed file is damaged, and cannot be read on", self.path) from error
        self.done += len(found)
        if self.done > self.most:
            raise DataError(
                f"unfolds to more than {UNPACKED_RATIO} times its size, over {self.most:,} bytes: unpack it yourself if you trust it",
                self.path,
            )
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.packed.close()
        super().close()


def plain_suffix(path: Path) -> str:
    """What kind of file it is, packed or not: `.csv` of `people.csv.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in (".gz", ".xz") else path.suffix.lower()


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked where its name ends in .gz or .xz."""
    if path == STDIN:
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False)) if _has_number(sys.stdin) else sys.stdin.buffer
    if path.suffix.lower() in (".gz", ".xz"):
        packed = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else lzma.open(path, "rb")
        return io.BufferedReader(_Unpacked(path, packed), 1 << 16)
    return open(path, "rb")


def _has_number(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, AttributeError):
        return False
    return True


_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def _encoding(start: bytes, path: Path) -> str:
    """Of a file that begins so; raises DataError for UTF-16 that does not say so."""
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    if len(start) >= 8 and (not any(start[1:8:2]) or not any(start[0:8:2])) and any(start[:8]):
        raise DataError("looks like UTF-16 without a mark: convert it, as with iconv -f UTF-16LE -t UTF-8", path)
    return "utf-8"


def open_text(path: Path) -> io.TextIOWrapper:
    """Its text, in UTF-8 or whatever its first bytes say. Bytes that are no text stay as lone surrogates: see `check_text`."""
    raw: Any = open_bytes(path)
    try:
        start = raw.peek(4096) if hasattr(raw, "peek") else b""
        encoding = _encoding(start[:8], path)
    except BaseException:
        raw.close()
        raise
    newline = "\r" if b"\r" in start and b"\n" not in start and encoding != "utf-16" else "\n"  # as Macs wrote long ago
    return io.TextIOWrapper(raw, encoding, errors="memgpt-mark" if encoding == "utf-16" else "surrogateescape", newline=newline)


codecs.register_error("memgpt-mark", lambda error: ("\udcff", getattr(error, "end", 0)))  # as surrogateescape, for UTF-16


def check_text(line: str, encoding: str = "utf-8") -> str:
    """The line itself; raises DataError where it holds bytes that were no text."""
    if encoding == "utf-16" and "\udcff" in line:
        raise DataError("invalid UTF-8, and invalid UTF-16, which the file begins as")
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError as error:
            place, byte = len(line[: error.start].encode()), ord(line[error.start]) & 0xFF
            raise DataError(f"invalid UTF-8 at byte {place} of the line (0x{byte:02x})") from error
    return line


def read_lines(path: Path, reject: Reject, on_reject: Callable[[int], None] = lambda number: None) -> Iterator[tuple[int, str]]:
    """Numbered lines without their end; what cannot be read is rejected, its number told to `on_reject`."""
    number = 0
    try:
        with open_text(path) as text:
            while line := text.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    size = _bytes(line)
                    while line and not line.endswith(("\n", "\r")):
                        line = text.readline(MAX_LINE_BYTES)
                        size += _bytes(line)
                    on_reject(number)
                    reject(DataError(f"a line of {size:,} bytes, expected at most {MAX_LINE_BYTES:,}", path, number), None)
                    continue
                try:
                    yield number, check_text(line.rstrip("\r\n"), text.encoding)
                except DataError as error:
                    on_reject(number)
                    reject(error.at(path, number), repr(line[:200]))
    except DataError as error:
        if error.line:  # a line's own, which `reject` raised
            raise
        on_reject(number + 1)
        reject(error.at(path, number + 1), None)


def _bytes(line: str) -> int:
    return len(line.encode(errors="surrogateescape"))


def read_text(path: Path) -> str:
    """A whole text with newlines normalised; raises DataError with the line where it is no text."""
    with open_text(path) as text:
        found = text.read(MAX_FILE_BYTES + 1)
        encoding = text.encoding
    if len(found) > MAX_FILE_BYTES:
        raise DataError(f"a text of more than {MAX_FILE_BYTES:,} characters: split it", path)
    try:
        check_text(found, encoding)
    except DataError:
        for number, line in enumerate(found.split("\n"), 1):
            try:
                check_text(line, encoding)
            except DataError as error:
                raise error.at(path, number) from error
    return found.replace("\r\n", "\n").replace("\r", "\n")


# JSON


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
