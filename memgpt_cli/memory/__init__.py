"""The persistent memory: a protocol (`Store`) and the embedded engine behind it. Never imports torch."""

from memgpt_cli.memory.protocol import Hit, Item, Store, Stored
from memgpt_cli.memory.sqlite import SqliteStore, open_store

__all__ = ["Hit", "Item", "SqliteStore", "Store", "Stored", "open_store"]
