"""Trying a store out: every promise once, in a namespace of its own that is gone afterwards."""

import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memgpt_cli.errors import StoreError
from memgpt_cli.store import bundle
from memgpt_cli.store.protocol import Store
from memgpt_cli.store.types import Item


@dataclass(frozen=True)
class Step:
    name: str
    ok: bool
    ms: float
    note: str = ""


def _exports(store: Store, namespace: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return bundle.export(store, namespace, Path(folder) / "export")


def try_store(store: Store, entries: int = 200) -> list[Step]:
    """Puts, finds, edits and forgets `entries` made-up entries, and says how long each took."""
    namespace, other = (f"serve-check-{secrets.token_hex(6)}" for _ in range(2))
    vectors = np.random.default_rng(1).normal(size=(entries, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [
        Item(f"trial entry number{n} 试验{n}", "note", {"n": n}, {"who": "serve-check"}, vector)
        for n, vector in enumerate(vectors)
    ]
    steps: list[Step] = []
    ids: list[int] = []

    def step(name: str, what: Callable[[], bool]) -> None:
        began = time.perf_counter()
        try:
            ok, note = what(), ""
        except StoreError as error:
            ok, note = False, str(error)
        steps.append(Step(name, ok, 1000 * (time.perf_counter() - began), note if note or ok else "not as it should be"))

    def put() -> bool:
        ids.extend(store.put(namespace, items).ids)
        return len(set(ids)) == entries

    try:
        step(f"put {entries}", put)
        step("put one, durably", lambda: store.put(other, items[:1]).new == 1)
        step("the same again changes nothing", lambda: store.put(namespace, items).ids == ids)
        step("search by vector", lambda: [h.entry.meta["n"] for h in store.search(namespace, vectors[7:8], k=1)[0]] == [7])
        step("search by word", lambda: [h.entry.meta["n"] for h in store.search(namespace, texts=["number7"], k=1)[0]] == [7])
        step("search Chinese", lambda: bool(store.search(namespace, texts=["试验7"], k=1)[0]))
        step("another namespace is a wall", lambda: store.get(other, ids) == [] and len(store.list(other)) == 1)
        step("edit", lambda: store.edit(namespace, ids[0], Item("edited", vector=vectors[0]), if_version=1).entry.version == 2)
        step("forget", lambda: store.forget(namespace, ids[:10]).entries == 10)
        step("export", lambda: _exports(store, namespace) == entries - 10)
        step("verify", lambda: store.verify() == [])
    finally:
        step("forget all", lambda: all(store.forget(n, everything=True).entries for n in (namespace, other)))
    return steps
