"""Where presets and personal state live."""

import getpass
import os
from pathlib import Path

from memgpt_cli.errors import ConfigError, UsageError

GROUPS = ("data", "model", "optim", "trainer", "store", "experiment", "debug")


def conf_dir() -> Path:
    """The configuration folder: the repository's where both exist (an editable install may leave a stale copy)."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "conf", package / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration found at {package / 'conf'}: reinstall memgpt-cli")


def bundled_folder(name: str) -> Path:
    """What comes with the package for a source of data: its files, or a model trained on it."""
    return Path(__file__).parents[1] / "data" / "bundled" / name


def choices(group: str, config_dir: Path | None = None) -> list[str]:
    """The presets of a group, such as cpu, gpu4 of `trainer`."""
    folders = [conf_dir() / group] + ([config_dir / group] if config_dir else [])
    return sorted({p.stem for folder in folders if folder.is_dir() for p in folder.glob("*.yaml")})


def user_name() -> str:
    """The namespace of who gives none; raises UsageError where the system has no name for them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user of that number
        raise UsageError("this system has no name for you: say whose memory it is with --namespace NAME") from None


def home() -> Path:
    """Where personal state lives: $MEMGPT_HOME, by default ~/.local/share/memgpt-cli (~/.memgpt is Letta's)."""
    return Path(os.environ.get("MEMGPT_HOME") or Path.home() / ".local" / "share" / "memgpt-cli")
