"""Speed and recall of the memory store against its size, beside an exact scan and FAISS HNSW on the same vectors.

Imports no torch, and searches in a fresh process, so that its memory is the store's.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli.files import writing
from memgpt_cli.store.sqlite.store import SqliteStore
from memgpt_cli.store.types import Item, now

K = 8
BATCH = 64
CHUNK = 50_000
_WORDS = 20_000
Report = Callable[[str, int], None]


@dataclass
class Measured:
    """One index over one namespace. Times in milliseconds; `rss_mb` of a process that did nothing but search."""

    rows: int
    dim: int
    index: str  # store | exact | hnsw
    namespace: str  # which share of the store's rows was searched
    p50: float
    p95: float
    batch: float  # 64 queries at once
    recall: float  # @8, against the exact answer
    rows_per_s: float = 0.0
    open_ms: float = 0.0
    first_ms: float = 0.0
    rss_mb: float = 0.0
    file_mb: float = 0.0


@dataclass
class Puts:
    """Single durable writes: ours, and SQLite's own least for a row of this size."""

    dim: int
    ours_ms: float
    floor_ms: float


@dataclass
class Result:
    rows: list[Measured] = field(default_factory=list)
    puts: Puts | None = None


class Topics:
    """Keys as text gives them: a tree of topics, most of the variance in few directions, all leaning one way.

    Directions' standard deviation falls as 1/√n; 50 entries share a topic, 50 topics a field; queries are entries with
    noise (cosine about 0.8).
    """

    def __init__(self, rows: int, dim: int, seed: int) -> None:
        self.rows, self.dim, self.seed = rows, dim, seed
        rng = np.random.default_rng(seed)
        self._spectrum = ((1 + np.arange(dim)) ** -0.5).astype(np.float32)
        self._turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)
        fields = rng.normal(size=(max(1, rows // 2500), dim)).astype(np.float32)
        topics = rng.normal(size=(max(1, rows // 50), dim)).astype(np.float32)
        self._topics = topics + fields[rng.integers(0, len(fields), len(topics))] + 0.5

    def chunk(self, first: int, n: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, first))
        about = self._topics[rng.integers(0, len(self._topics), n)]
        vectors = ((about + rng.normal(size=(n, self.dim)).astype(np.float32)) * self._spectrum) @ self._turn
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, self.rows, CHUNK):
            yield first, self.chunk(first, min(CHUNK, self.rows - first))

    def queries(self, n: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 1 << 40))
        some = self.chunk(0, min(CHUNK, self.rows))
        near = some[rng.integers(0, len(some), n)]
        noise = (rng.normal(size=near.shape).astype(np.float32) * self._spectrum) @ self._turn
        mixed = near + 0.75 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)


class Given(Topics):
    """Keys of the user's, an array [N, D]; the last ones are the queries."""

    def __init__(self, vectors: np.ndarray, rows: int) -> None:
        self._vectors = vectors
        self.rows, self.dim = min(rows, len(vectors) - 256), vectors.shape[1]

    def chunk(self, first: int, n: int) -> np.ndarray:
        return np.ascontiguousarray(self._vectors[first : first + n], np.float32)

    def queries(self, n: int) -> np.ndarray:
        return np.ascontiguousarray(self._vectors[-256:][:n], np.float32)


def _texts(first: int, n: int) -> list[str]:
    rng = np.random.default_rng((7, first))
    words = rng.zipf(1.3, size=(n, 10)) % _WORDS
    return [f"entry {first + i} " + " ".join([f"w{w}" for w in row]) for i, row in enumerate(words.tolist())]


def _best(found: tuple[np.ndarray, np.ndarray] | None, first: int, vectors: np.ndarray, queries: np.ndarray) -> Any:
    """The exact best K so far, [Q, K] scores and rows."""
    scores = queries @ vectors.T
    rows = np.broadcast_to(np.arange(first, first + len(vectors)), scores.shape)
    if found is not None:
        scores, rows = np.concatenate([found[0], scores], 1), np.concatenate([found[1], rows], 1)
    k = min(K, scores.shape[1])
    at = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(scores, at, 1), np.take_along_axis(rows, at, 1)


def _timed(search: Callable[[np.ndarray], list[list[int]]], queries: np.ndarray) -> tuple[float, float, float, list[list[int]]]:
    """p50, p95 and the time of a batch, in ms, and what was found."""
    search(queries[:1])
    single, found = [], []
    for n in range(len(queries)):
        began = time.perf_counter()
        found += search(queries[n : n + 1])
        single.append(1000 * (time.perf_counter() - began))
    batches = []
    for _ in range(5):
        began = time.perf_counter()
        search(queries[:BATCH])
        batches.append(1000 * (time.perf_counter() - began))
    return float(np.percentile(single, 50)), float(np.percentile(single, 95)), statistics.median(batches), found


def recall(found: list[list[int]], truth: np.ndarray) -> float:
    return float(np.mean([np.isin(t, f).mean() for f, t in zip(found, truth, strict=True)]))


def _fresh(path: str, namespace: str, queries: np.ndarray, out: Any) -> None:
    """Opens the store and searches, in a process of its own."""
    began = time.perf_counter()
    store = SqliteStore(Path(path), "bench")
    opened = 1000 * (time.perf_counter() - began)
    began = time.perf_counter()
    store.search(namespace, queries[:1], k=K)
    first = 1000 * (time.perf_counter() - began)
    search = lambda q: [[int(h.entry.meta["row"]) for h in hits] for hits in store.search(namespace, q, k=K)]  # noqa: E731
    p50, p95, batch, found = _timed(search, queries)
    out.put((opened, first, p50, p95, batch, found, _resident()))
    store.close()


def _resident() -> float:
    """Resident memory in MB, now; at its highest where the system tells no other."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def _search_store(path: Path, namespace: str, share: str, queries: np.ndarray, truth: np.ndarray, rows: int) -> Measured:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=_fresh, args=(str(path), namespace, queries, out))
    process.start()
    opened, first, p50, p95, batch, found, resident = out.get()
    process.join()
    row = Measured(rows, queries.shape[1], "store", share, p50, p95, batch, recall(found, truth))
    row.open_ms, row.first_ms, row.rss_mb = opened, first, resident
    row.file_mb = sum(f.stat().st_size for f in path.parent.glob(path.name + "*")) / 1e6
    return row


def _ingest(path: Path, data: Topics, place: Callable[[int, int], str], report: Report) -> float:
    """Fills a store; returns rows a second, texts, words and vectors included."""
    store, spent = SqliteStore(path, "bench"), 0.0
    for first, vectors in data.chunks():
        items: dict[str, list[Item]] = {}
        for n, (text, vector) in enumerate(zip(_texts(first, len(vectors)), vectors, strict=True)):
            items.setdefault(place(first + n, data.rows), []).append(Item(text, "note", {"row": first + n}, {}, vector))
        began = time.perf_counter()
        for namespace, mine in items.items():
            for at in range(0, len(mine), 10_000):
                store.put(namespace, mine[at : at + 10_000])
        spent += time.perf_counter() - began
        report(f"storing {data.rows:,} rows", first)
    began = time.perf_counter()
    store.close()
    return data.rows / (spent + time.perf_counter() - began)


SHARES = {"50 %": 0.5, "5 %": 0.05, "100 rows": 0.0}


def _place(row: int, rows: int) -> str:
    """Namespaces of 100 rows, 5 %, 50 % and the rest, mixed row by row."""
    if row % (rows // 100) == 0:
        return "100 rows"
    return "50 %" if row % 2 else "5 %" if row % 20 == 2 else "rest"


def measure(
    sizes: list[int], dim: int, queries: int, vectors: np.ndarray | None, others: bool, seed: int, report: Report
) -> Result:
    """One row per size and index; of the size nearest 100,000 also namespaces of 50 %, 5 % and 100 of its rows."""
    result = Result()
    for size in sizes:
        data = Topics(size, dim, seed) if vectors is None else Given(vectors, size)
        asked, truth = data.queries(queries), None
        for first, some in data.chunks():
            truth = _best(truth, first, some, asked)
            report(f"exact answers among {data.rows:,}", first)
        assert truth is not None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "all.sqlite"
            rate = _ingest(path, data, lambda row, rows: "all", report)
            report(f"searching {data.rows:,} rows", 0)
            row = _search_store(path, "all", "all", asked, truth[1], data.rows)
            row.rows_per_s = rate
            result.rows.append(row)
            if result.puts is None:
                result.puts = measure_puts(Path(folder), data.chunk(0, 300))
        if size == min(sizes, key=lambda n: abs(n - 100_000)) and size <= 1_000_000:
            result.rows += _measure_walls(data, asked, report)
        if others and size <= 2_000_000:
            result.rows += _others(data, asked, truth[1], report)
    return result


def _measure_walls(data: Topics, queries: np.ndarray, report: Report) -> list[Measured]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shared.sqlite"
        rate = _ingest(path, data, _place, report)
        for name in SHARES:
            truth: Any = None
            count = 0
            for first, some in data.chunks():
                mine = [n for n in range(len(some)) if _place(first + n, data.rows) == name]
                scores, at = _best(None, 0, some[mine], queries)
                both = (scores, np.array([first + n for n in mine])[at])
                truth = both if truth is None else tuple(np.concatenate(p, 1) for p in zip(truth, both, strict=True))
                count += len(mine)
            assert truth is not None
            order = np.argsort(-truth[0], axis=1)[:, :K]
            report(f"searching the namespace of {name}", 0)
            row = _search_store(path, name, name, queries, np.take_along_axis(truth[1], order, 1), count)
            row.rows_per_s = rate
            found.append(row)
    return found


def _others(data: Topics, queries: np.ndarray, truth: np.ndarray, report: Report) -> list[Measured]:
    """The exact scan (NumPy), and FAISS HNSW (M 32, efConstruction 80, efSearch 64) where it is installed."""
    vectors = np.concatenate([some for _, some in data.chunks()])

    def exact(q: np.ndarray) -> list[list[int]]:
        scores = q @ vectors.T
        at = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        return at.tolist()  # type: ignore[no-any-return]

    report(f"exact scan of {data.rows:,} rows", 0)
    p50, p95, batch, found = _timed(exact, queries)
    out = [Measured(data.rows, data.dim, "exact", "all", p50, p95, batch, recall(found, truth), rss_mb=vectors.nbytes / 1e6)]
    try:
        import faiss
    except ImportError:
        return out
    report(f"building HNSW of {data.rows:,} rows", 0)
    graph = faiss.IndexHNSWFlat(data.dim, 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 80, 64
    began = time.perf_counter()
    graph.add(vectors)
    rate = data.rows / (time.perf_counter() - began)
    p50, p95, batch, found = _timed(lambda q: graph.search(q, K)[1].tolist(), queries)
    size = (vectors.nbytes + data.rows * 4 * 68) / 1e6
    out.append(Measured(data.rows, data.dim, "hnsw", "all", p50, p95, batch, recall(found, truth), rate, rss_mb=size))
    return out


def measure_puts(folder: Path, vectors: np.ndarray) -> Puts:
    """Single writes by turns: `put` of one entry, and an INSERT of as many bytes into a bare table, both with fsync."""
    import apsw

    bare = apsw.Connection(str(folder / "floor.sqlite"))
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, vector BLOB)")
    ours: list[float] = []
    floor: list[float] = []
    with SqliteStore(folder / "put.sqlite", "bench") as store:
        for n, (text, vector) in enumerate(zip(_texts(0, len(vectors)), vectors, strict=True)):
            began = time.perf_counter()
            store.put("anna", [Item(text, "note", {}, {"who": "anna", "when": now()}, vector)])
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            bare.execute("INSERT INTO t VALUES (?,?,?)", (n, text, vector.tobytes()))
            floor.append(time.perf_counter() - began)
    bare.close()
    return Puts(vectors.shape[1], 1000 * statistics.median(ours), 1000 * statistics.median(floor))


def draw(result: Result, path: Path) -> None:
    """Latency and recall against the number of rows searched, an index a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for index in ("store", "exact", "hnsw"):
        rows = sorted((m for m in result.rows if m.index == index and m.namespace == "all"), key=lambda m: m.rows)
        sizes = [m.rows for m in rows]
        if rows:
            left.plot(sizes, [m.p50 for m in rows], "o-", label=index)
            right.plot(sizes, [m.recall for m in rows], "o-", label=index)
    left.set(xscale="log", yscale="log", xlabel="rows", ylabel="median of one query, ms")
    right.set(xscale="log", ylim=(0.9, 1.005), xlabel="rows", ylabel="recall@8")
    left.legend()
    with writing(path, binary=True) as file:
        figure.savefig(file, dpi=120, format=path.suffix.lstrip(".").lower() or "png")
    plt.close(figure)
