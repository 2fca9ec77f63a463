"""The one place that names, replaces and deletes files and folders. Its law (docs/safety.md):

- a name is a plain name, never a path;
- a folder is replaced or deleted only if it carries our own marker and nothing in it is foreign;
- what is written stands beside its place until it is whole, then it is renamed;
- what is read is never what is written;
- one process at a time writes a folder.
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from memgpt_cli.errors import UsageError
from memgpt_cli.schema import unfit

NAME_BYTES = 160
"""Of a name, at most: what is unfinished has a longer one, and file systems end at 255."""
_PLAIN = re.compile(r"[\w-][\w.-]*")
_MARKER_BYTES = 64 << 20
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini", ".nfs*")  # what file managers and disks leave everywhere; nobody's work


def plain_name(name: str, setting: str) -> str:
    """The name itself; raises UsageError where it could lead out of the folder it is to stand in."""
    if not _PLAIN.fullmatch(name) or len(name.encode(errors="replace")) > NAME_BYTES or unfit(name):
        raise UsageError(
            f"{setting} is {name[:80]!r}, expected a plain name: letters, digits, '.', '_' and '-', not beginning with a dot, "
            f"{NAME_BYTES} bytes at most"
        )
    return name


def slug(text: str) -> str:
    """A plain name made of any text; a long one is shortened and told apart by a hash."""
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.") or "unnamed"
    if len(name.encode()) > NAME_BYTES // 2:
        mark = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
        name = name.encode()[: NAME_BYTES // 2].decode(errors="ignore").rstrip("-.") + f"-{mark}"
    return name


@dataclass(frozen=True)
class Kind:
    """A kind of folder that this program writes.

    Args:
        what: its name for a person, with its article.
        marker: the JSON file that tells it; `fields` must be in it.
        own: every path in it that is ours, as globs a part.
    """

    what: str
    marker: str
    fields: tuple[str, ...]
    own: tuple[str, ...]

    def marks(self, folder: Path) -> bool:
        """Whether the folder carries the marker."""
        file = folder / self.marker
        try:
            if file.is_symlink() or not file.is_file() or file.stat().st_size > _MARKER_BYTES:
                return False
            found = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(found, dict) and all(field in found for field in self.fields)

    def within(self, folder: str) -> tuple[str, ...]:
        """The globs of `own`, for a folder of this kind that lies in another one."""
        return tuple(f"{folder}/{glob}" for glob in self.own)


def strangers(folder: Path, kind: Kind) -> Iterator[str]:
    """What stands in the folder, relative to it, that a folder of this kind does not hold: also links, and other disks."""
    globs = [glob.split("/") for glob in kind.own]
    device, mounts = os.lstat(folder).st_dev, _mounts()

    def ours(parts: tuple[str, ...], whole: bool) -> bool:
        return any(
            (len(parts) == len(glob) if whole else len(parts) < len(glob))
            and all(map(fnmatch.fnmatchcase, parts, glob[: len(parts)]))
            for glob in globs
        )

    def walk(place: Path, parts: tuple[str, ...]) -> Iterator[str]:
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda e: e.name)
        for entry in entries:
            if any(fnmatch.fnmatchcase(entry.name, glob) for glob in _LITTER) and entry.is_file(follow_symlinks=False):
                continue
            here = (*parts, entry.name)
            is_folder = entry.is_dir(follow_symlinks=False)
            foreign = not is_folder and not entry.is_file(follow_symlinks=False)  # a link, a socket, a pipe
            foreign = foreign or entry.stat(follow_symlinks=False).st_dev != device or os.path.realpath(entry.path) in mounts
            if foreign or not ours(here, whole=not is_folder):
                yield "/".join(here) + "/" * is_folder
            elif is_folder:
                yield from walk(Path(entry.path), here)

    yield from walk(folder, ())


def _mounts() -> set[str]:
    """Where other file systems, or parts of this one, are mounted; nothing is known of it outside Linux."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    octal = re.compile(r"\\([0-7]{3})")
    return {octal.sub(lambda found: chr(int(found.group(1), 8)), line.split(" ")[4]) for line in lines}


def check_marked(folder: Path, kind: Kind, advice: str = "name another") -> bool:
    """Whether the folder is there, and may be written into: it carries the marker, or is empty.

    Raises UsageError where it is not ours: a link, a file, another name on a disk that folds letter case, a folder without
    the marker.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link to {os.readlink(folder)}: nothing is written or deleted through it; {advice}")
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected {kind.what} or nothing: {advice}")
    if (named := _name_on_disk(folder)) != folder.name:
        raise UsageError(f"{folder} is '{named}' on this disk, which does not tell the two apart: {advice}")
    found = next(iter(sorted(os.listdir(folder))), "")
    if found and not kind.marks(folder):
        raise UsageError(f"{folder} holds other things than {kind.what} of memgpt's ({found}), so it stays as it is: {advice}")
    return True


def check_own(folder: Path, kind: Kind, advice: str = "name another") -> bool:
    """Whether the folder is there, and may be replaced or deleted: it carries the marker, and nothing in it is foreign.

    Raises UsageError where it is not ours alone; nothing is changed.
    """
    if not check_marked(folder, kind, advice):
        return False
    if os.path.ismount(folder) or os.path.realpath(folder) in _mounts():
        raise UsageError(f"{folder} is where a disk is mounted: {advice}")
    if foreign := next(strangers(folder, kind), ""):
        raise UsageError(f"{folder} holds {foreign}, which memgpt did not write, so it stays as it is: move that, or {advice}")
    return True


def _name_on_disk(folder: Path) -> str:
    def normal(name: str) -> str:
        return unicodedata.normalize("NFC", name)

    names = os.listdir(folder.parent)
    if any(normal(name) == normal(folder.name) for name in names):
        return folder.name
    return next((name for name in names if name.casefold() == folder.name.casefold()), folder.name)


def remove_folder(folder: Path, kind: Kind, advice: str = "name another") -> None:
    """Deletes a folder of ours; raises UsageError where it is not, with nothing changed."""
    if check_own(folder, kind, advice):
        gone = beside(folder, "gone")  # never put back, however much of it is left
        os.replace(folder, gone)
        shutil.rmtree(gone)


def beside(path: Path, mark: str = "") -> Path:
    """Where what becomes `path` stands until it is whole."""
    name = path.name.encode()[:NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{name}.partial-{mark}{'-' if mark else ''}{os.getpid()}")


@contextlib.contextmanager
def new_folder(folder: Path, kind: Kind, advice: str = "name another") -> Iterator[Path]:
    """A folder to write into that takes the place of `folder` when the block ends, and vanishes where it fails.

    What stood there before is deleted then, if it is ours; UsageError is raised before anything is written if it is not.
    """
    check_own(folder, kind, advice)
    partial = beside(folder)
    with told_of(partial, folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_dead(folder)
        partial.mkdir()
        try:
            yield partial
            _sync_tree(partial)
            _exchange(partial, folder, kind, advice)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _exchange(partial: Path, folder: Path, kind: Kind, advice: str) -> None:
    """Two renames; a crash in between leaves both folders whole, and `settle` puts the old one back."""
    old = beside(folder, "old")
    if check_own(folder, kind, advice):  # once more: what has come since the block began is kept as well
        os.replace(folder, old)
    try:
        os.rename(partial, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    _sync(folder.parent)
    if old.exists():
        gone = beside(folder, "gone")
        os.replace(old, gone)
        shutil.rmtree(gone, ignore_errors=True)


def settle(folder: Path) -> None:
    """Tidies up after processes that were killed while they wrote this folder. Only who holds its lock may call it."""
    _settle(folder.parent, re.escape(folder.name))


def settle_inside(folder: Path) -> None:
    """The same for whatever stands in a folder of ours."""
    if not folder.is_symlink():
        _settle(folder, r".+?")


def remove_dead(path: Path) -> None:
    """Removes what processes that are no more left of this file or folder."""
    _settle(path.parent, re.escape(beside(path).name[1:].partition(".partial-")[0]), dead_only=True)


def _settle(parent: Path, name: str, dead_only: bool = False) -> None:
    """Hidden files and folders called `.NAME.partial-NUMBER` are ours; `old` is whole, and takes its place where that is empty."""
    unfinished = re.compile(rf"\.({name})\.partial-(old-|gone-)?(\d+)")
    for left in sorted(os.listdir(parent)) if parent.is_dir() else ():
        if (found := unfinished.fullmatch(left)) and not (dead_only and _lives(int(found.group(3)))):
            path, whole = parent / left, parent / found.group(1)
            if found.group(2) == "old-" and not os.path.lexists(whole):
                os.rename(path, whole)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


@contextlib.contextmanager
def told_of(partial: Path, path: Path) -> Iterator[None]:
    """Errors name the file that was to be, not the unfinished one; one that comes without a name gets this one."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        if isinstance(error, BlockingIOError | BrokenPipeError) or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), name.replace(str(partial), str(path))) from error


@contextlib.contextmanager
def writing(path: Path, binary: bool = False, reads: Iterable[Path] = ()) -> Iterator[IO[Any]]:
    """A file to write that takes the place of `path` when the block ends; where it fails, `path` is what it was.

    Args:
        reads: files and folders that are being read: `path` may be none of them, nor lie in one.

    Raises UsageError for a place where no file can be; OSError, with the name of `path`, where it cannot be written.
    """
    for other in reads:
        if _same(path, other):
            raise UsageError(f"{path} is being read ({other}), so it cannot be written: name another file")
    place = path.resolve() if path.is_symlink() else path
    if place.is_dir():
        raise UsageError(f"{path} is a folder: name a file to write")
    if not place.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {place.parent}")
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    if place.exists() and not place.is_file():  # a device, a pipe
        with told_of(place, path), open(place, mode, encoding=encoding, errors=None if binary else "backslashreplace") as file:
            yield file
        return
    partial = beside(place)
    remove_dead(place)
    with told_of(partial, path):
        try:
            with open(partial, mode, encoding=encoding, errors=None if binary else "backslashreplace") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                shutil.copymode(place, partial)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole text or, where that fails, what was there before."""
    with writing(path) as file:
        file.write(text)


def _same(path: Path, other: Path) -> bool:
    if other.is_dir():
        return path.resolve().is_relative_to(other.resolve())
    try:
        return os.path.samefile(path, other)
    except OSError:
        return path.resolve() == other.resolve()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return process != os.getpid()


@contextlib.contextmanager
def locked(folder: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """One process at a time in this block for this folder. The lock is the system's: it dies with its process.

    Args:
        busy: told which process has it. To wait for that one, it returns; else it raises.
    """
    file = folder.with_name(f".{folder.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
                busy(os.pread(number, 20, 0).decode(errors="replace").strip() or "another")
                fcntl.flock(number, fcntl.LOCK_EX)
            elif error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):  # a disk without locks: none then
                raise
        os.ftruncate(number, 0)
        os.pwrite(number, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(number)
