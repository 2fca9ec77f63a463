"""Folders that are whole or not there: written beside their place, then renamed."""

import os
import shutil
from pathlib import Path


def replace_folder(partial: Path, folder: Path) -> None:
    """Puts a finished folder in its place once its bytes are on disk; a crash between the renames leaves the old one beside it."""
    for path in partial.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    old = folder.with_name(f".{folder.name}.partial-old-{os.getpid()}")
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)
