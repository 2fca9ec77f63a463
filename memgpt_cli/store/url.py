"""From a URL to a store."""

import os
from pathlib import Path

from memgpt_cli import plugins
from memgpt_cli.config import home
from memgpt_cli.errors import UsageError
from memgpt_cli.store.protocol import Opener, Store


def key_from(name: str) -> str:
    """The encryption key that the environment variable `name` holds; empty where no name is given.

    Raises:
        UsageError: the variable is not there or empty.
    """
    if not name:
        return ""
    key = os.environ.get(name, "")
    if not key:
        raise UsageError(f"the store's key is to be in the environment variable {name}, which is not set")
    return key


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    scheme, sign, rest = url.partition("://")
    place, mark, query = rest.partition("?")
    login, at, host = place.rpartition("@")
    kept = [part for part in query.split("&") if part and not part.lower().partition("=")[0].endswith("password")]
    return f"{scheme}{sign}{login.partition(':')[0]}{at}{host}{mark if kept else ''}{'&'.join(kept)}" if sign else url


def open_store(url: str = "", fingerprint: str = "", key_env: str = "", create: bool = True) -> Store:
    """The store at a path, `sqlite:///path` or `postgresql://…`; the user's own where `url` is empty.

    Args:
        fingerprint: of the encoder whose vectors are written and searched; without one only words are searched.
        key_env: the environment variable that holds the key of an encrypted store.
        create: make the file where there is none.

    Raises:
        StoreError: the store cannot be opened.
        UsageError: a URL of another kind, or a key that is not there.
    """
    key = key_from(key_env)
    if "://" not in url:
        url = f"sqlite:///{Path(url).expanduser() if url else home() / 'memory.sqlite'}"
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and not rest.startswith("/"):
        raise UsageError(f"{url}: expected three slashes and a path, sqlite:///{rest}, or four where it begins at the root")
    wrong = f"{without_password(url)}: expected a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    opener: Opener = plugins.load(plugins.STORES, scheme, wrong)
    return opener(url, fingerprint, key, create)
