"""Where entries last: a protocol (`Store`) and its engines, chosen by a URL. Never imports torch."""

from memgpt_cli.store.protocol import Store
from memgpt_cli.store.types import (
    Capabilities,
    Edited,
    Filter,
    Hit,
    Item,
    Limits,
    Receipt,
    Row,
    Stored,
    StoreStats,
    Written,
)
from memgpt_cli.store.url import open_store

__all__ = [
    "Capabilities",
    "Edited",
    "Filter",
    "Hit",
    "Item",
    "Limits",
    "Receipt",
    "Row",
    "Store",
    "StoreStats",
    "Stored",
    "Written",
    "open_store",
]
