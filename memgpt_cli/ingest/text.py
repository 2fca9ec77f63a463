"""Text and JSON from files that nobody vouches for: what cannot be read is named by its line, and loses nothing else.

Readers take a `reject(error, record)`: it raises, and ends the reading, or keeps the error, and the reading goes on.
"""

import codecs
import gzip
import io
import lzma
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


BLOCK = 1 << 20
"""Characters of a text that are in memory at a time; a chunk never spans two blocks."""


def read_blocks(path: Path, reject: Reject) -> Iterator[tuple[list[int], str]]:
    """A text in pieces that end with a paragraph, or where that is far with a line: the number of each line, and the piece."""
    numbers: list[int] = []
    lines: list[str] = []
    size = 0
    for number, line in read_lines(path, reject):
        if "\0" in line:
            if number < 100:
                raise DataError("holds NUL bytes: not a text file", path)
            reject(DataError("a line with NUL bytes", path, number), None)
            continue
        if size > BLOCK and (not line.strip() or size > 4 * BLOCK):
            yield numbers, "\n".join(lines)
            numbers, lines, size = [], [], 0
        numbers.append(number)
        lines.append(line)
        size += len(line) + 1
    yield numbers, "\n".join(lines)
