"""The persistent memory: a protocol (`Store`) and its engines, chosen by a URL. Never imports torch."""

from memgpt_cli.memory.opening import open_store
from memgpt_cli.memory.protocol import Store
from memgpt_cli.memory.records import Edited, Filter, Hit, Item, Limits, Receipt, Row, Stored, Written

__all__ = ["Edited", "Filter", "Hit", "Item", "Limits", "Receipt", "Row", "Store", "Stored", "Written", "open_store"]
