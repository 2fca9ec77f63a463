"""Search by inner product over one namespace, in RAM: exact for a few thousand vectors, one-bit codes beyond.

A code is the signs of the rotated vector, its mean taken off, so that vectors which all point one way still differ in every
bit. Search goes through three sieves: Hamming distance of the codes to the query's code; for the nearest few thousand,
the inner product of the query (not coded) with the signs, which is unbiased when scaled by each vector's own factor
(RaBitQ, arXiv 2405.12497); for the best of those the vectors themselves, until the error bound says that no further one
can be among the best k.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

EXACT_ROWS = 4096
"""Up to here vectors are compared exactly, all of them."""
NEAR, NEAR_SHARE, NEAR_MOST = 1024, 400, 16384
"""Candidates that pass the first sieve: a share of the rows, within bounds."""
FIRST, MOST = 24, 768
"""Vectors read for a query at first, and at most."""
SIGMAS = 2.0
_BLOCK = 32768
_NEVER = 65535
_DISTANCES = 1 << 25  # held at once
_THREADS = min(4, os.cpu_count() or 1)

Fetch = Callable[[np.ndarray], np.ndarray]
"""Ids [N], ascending, to their vectors [N, D]; a row of NaN where a vector is gone."""


def code_bits(dim: int) -> int:
    """Bits of a code for vectors [D]: D, and for short vectors as many times D as make 384, since 64 bits tell little."""
    return dim * max(1, -(-384 // dim))


@cache
def make_rotation(dim: int) -> np.ndarray:
    """Random rotations side by side, [D, B], that leave inner products as they are; stored beside the codes."""
    rng, times = np.random.default_rng(dim), code_bits(dim) // dim
    found = []
    for _ in range(times):
        q, r = np.linalg.qr(rng.normal(size=(dim, dim)))
        found.append(q * np.sign(np.diag(r)) / np.sqrt(times))
    return np.ascontiguousarray(np.concatenate(found, axis=1), dtype=np.float32)


def code_type(dim: int) -> np.dtype[Any]:
    """One row of a coded namespace: 12 bytes and the bits."""
    return np.dtype([("id", "<i8"), ("factor", "<f4"), ("bits", "<u8", ((code_bits(dim) + 63) // 64,))])


@dataclass(frozen=True)
class Codebook:
    """How vectors of one namespace are coded: `rotation` [D, B] of what is left when `mean` [D] is taken off."""

    mean: np.ndarray
    rotation: np.ndarray

    @property
    def dim(self) -> int:
        return len(self.mean)

    @classmethod
    def of(cls, vectors: np.ndarray, rotation: np.ndarray) -> "Codebook":
        return cls(vectors.mean(0, dtype=np.float64).astype(np.float32), rotation)

    def encode(self, ids: Sequence[int] | np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Codes [N] of `code_type` for vectors [N, D]."""
        rotated = (vectors - self.mean) @ self.rotation
        out = np.zeros(len(vectors), code_type(self.dim))
        out["id"] = ids
        length = np.einsum("nd,nd->n", rotated, rotated)
        out["factor"] = length / np.maximum(np.abs(rotated).sum(1), 1e-30)
        signs = np.packbits(rotated > 0, axis=1, bitorder="little")
        out["bits"].view(np.uint8).reshape(len(vectors), -1)[:, : signs.shape[1]] = signs
        return out


class Codes:
    """Codes held in columns, so that a scan is a few passes of vector instructions over each block of rows."""

    def __init__(self, ids: np.ndarray, factors: np.ndarray, columns: np.ndarray) -> None:
        self.ids, self.factors, self.columns = ids, factors, columns  # [N], [N], [W, N]
        self.n = len(ids)
        self.dead: set[int] = set()

    @classmethod
    def of(cls, rows: np.ndarray) -> "Codes":
        rows = rows if np.all(rows["id"][1:] > rows["id"][:-1]) else rows[np.argsort(rows["id"])]
        return cls(rows["id"].copy(), rows["factor"].copy(), np.ascontiguousarray(rows["bits"].T))

    @property
    def nbytes(self) -> int:
        return int(self.ids.nbytes + self.factors.nbytes + self.columns.nbytes)

    @property
    def alive(self) -> int:
        return self.n - len(self.dead)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows whose ids are larger than all before."""
        need = self.n + len(rows)
        if need > self.columns.shape[1]:
            room = need + need // 4 + 1024
            self.ids = np.concatenate([self.ids[: self.n], np.zeros(room - self.n, self.ids.dtype)])
            self.factors = np.concatenate([self.factors[: self.n], np.zeros(room - self.n, np.float32)])
            columns = np.zeros((self.columns.shape[0], room), np.uint64)
            columns[:, : self.n] = self.columns[:, : self.n]
            self.columns = columns
        self.ids[self.n : need], self.factors[self.n : need] = rows["id"], rows["factor"]
        self.columns[:, self.n : need] = rows["bits"].T
        self.n = need

    def place(self, ids: Iterable[int]) -> np.ndarray:
        """Positions of those ids that are here."""
        wanted = np.fromiter(ids, np.int64)
        at = np.searchsorted(self.ids[: self.n], wanted)
        there = at < self.n
        there[there] = self.ids[at[there]] == wanted[there]
        return at[there]

    def remove(self, ids: Iterable[int]) -> None:
        self.dead.update(self.place(ids).tolist())

    def replace(self, rows: np.ndarray) -> None:
        """New codes for those ids that are here, gone or not."""
        rows = rows[np.isin(rows["id"], self.ids[: self.n])]
        at = self.place(rows["id"])
        self.factors[at], self.columns[:, at] = rows["factor"], rows["bits"].T
        self.dead.difference_update(at.tolist())

    def distances(self, bits: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        """Hamming distances [Q, N] of every code to `bits` [Q, W]; `_NEVER` for what is gone or not allowed."""
        out = np.empty((len(bits), self.n), np.uint16)
        dead = np.sort(np.fromiter(self.dead, np.int64, len(self.dead)))

        def scan(begin: int, end: int) -> None:
            words, ones = (np.empty((bits.shape[1], _BLOCK), kind) for kind in (np.uint64, np.uint8))
            for first in range(begin, end, _BLOCK):
                last = min(first + _BLOCK, end)
                x, c, gone = words[:, : last - first], ones[:, : last - first], slice(0)
                if len(dead):
                    gone = slice(*np.searchsorted(dead, (first, last)))
                for q, query in enumerate(bits):
                    d = out[q, first:last]
                    np.bitwise_xor(self.columns[:, first:last], query[:, None], out=x)
                    np.bitwise_count(x, out=c)
                    np.add.reduce(c, axis=0, dtype=np.uint16, out=d)
                    d[dead[gone] - first] = _NEVER
                    if allowed is not None:
                        d[~allowed[first:last]] = _NEVER

        threads = min(_THREADS, len(bits) * self.n // 400_000)  # below that a thread costs more than it saves
        if threads > 1:
            step = -(-self.n // threads // _BLOCK) * _BLOCK
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(scan, range(0, self.n, step), [min(f + step, self.n) for f in range(0, self.n, step)]))
        else:
            scan(0, self.n)
        return out

    def nearest(self, distance: np.ndarray) -> np.ndarray:
        """Positions of the least of `distance` [N], about as many as pass the first sieve; a sample tells the limit."""
        wanted = min(NEAR_MOST, max(NEAR, self.n // NEAR_SHARE))
        sample = distance[:: max(1, self.n // 8192)]
        rank = min(len(sample) - 1, -(-wanted * len(sample) // self.n))
        found = np.flatnonzero(distance <= min(int(np.partition(sample, rank)[rank]), _NEVER - 1))
        if len(found) > 2 * wanted:  # many equal distances: the earliest of the last ones
            found = found[np.argsort(distance[found], kind="stable")[: 2 * wanted]]
        return found

    def estimate(self, positions: np.ndarray, query: "Planes") -> np.ndarray:
        """Inner products [K] of the rotated query with the vectors there, but for the mean's share."""
        words = self.columns.take(positions, axis=1)  # [W, K]
        counts = np.bitwise_count(words[None] & query.planes[:, :, None]).sum(1, dtype=np.uint16)  # [P, K]
        ones = np.bitwise_count(words).sum(0, dtype=np.uint16)
        sums = query.step * (_WEIGHTS @ counts) + query.low * ones  # of the query where the code has ones
        return np.asarray(self.factors[positions] * (2 * sums - query.total))


_PLANES = 6
_WEIGHTS = (2.0 ** np.arange(_PLANES)).astype(np.float32)


class Planes:
    """A rotated query [B] in steps of 1/63 of its range, as bit planes [P, W]: it meets a code word by word."""

    def __init__(self, rotated: np.ndarray) -> None:
        self.low = float(rotated.min())
        self.step = max((float(rotated.max()) - self.low) / (2**_PLANES - 1), 1e-30)
        self.total = float(rotated.sum())
        levels = np.rint((rotated - self.low) / self.step).astype(np.uint8)
        bits = (levels[None] >> np.arange(_PLANES, dtype=np.uint8)[:, None]) & 1  # [P, B]
        packed = np.zeros((_PLANES, (len(rotated) + 63) // 64 * 8), np.uint8)
        signs = np.packbits(bits, axis=1, bitorder="little")
        packed[:, : signs.shape[1]] = signs
        self.planes = packed.view(np.uint64)


class ExactIndex:
    """Vectors themselves, for a namespace of a few thousand."""

    def __init__(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.ids, self.matrix = ids, vectors

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return int(self.matrix.nbytes + self.ids.nbytes)

    def remove(self, ids: Iterable[int]) -> None:
        keep = ~np.isin(self.ids, list(ids))
        self.ids, self.matrix = self.ids[keep], self.matrix[keep]

    def append(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        self.ids = np.concatenate([self.ids, ids])
        self.matrix = np.concatenate([self.matrix, vectors]) if len(self.matrix) else vectors

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> list[list[tuple[int, float]]]:
        ids, matrix = self.ids, self.matrix
        if allowed is not None:
            keep = np.isin(ids, allowed)
            ids, matrix = ids[keep], matrix[keep]
        scores = queries @ matrix.T
        return [best_of(ids[there], row[there], k) for row in scores for there in [np.isfinite(row)]]


def best_of(ids: np.ndarray, scores: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The `k` largest scores with their ids, the earlier entry first where scores are equal."""
    if k < len(ids):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        keep = np.flatnonzero(scores >= threshold)
        ids, scores = ids[keep], scores[keep]
    order = np.lexsort((ids, -scores))[:k]
    return [(int(ids[n]), float(scores[n])) for n in order]


class CodedIndex:
    """Codes of a large namespace; the best by their codes are compared by the vectors themselves."""

    def __init__(self, book: Codebook, codes: Codes) -> None:
        self.book, self.codes = book, codes

    def __len__(self) -> int:
        return self.codes.alive

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes

    def remove(self, ids: Iterable[int]) -> None:
        self.codes.remove(list(ids))

    def append(self, rows: np.ndarray) -> None:
        self.codes.append(rows)

    def replace(self, rows: np.ndarray) -> None:
        self.codes.replace(rows)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None, fetch: Fetch) -> list[list[tuple[int, float]]]:
        """The best `k` of each of `queries` [Q, D], among the ids `allowed` where given."""
        if allowed is not None and len(allowed) <= MOST:
            return ExactIndex(allowed, fetch(allowed)).search(queries, k, None)
        step = max(1, _DISTANCES // max(1, len(self)))
        groups = (queries[first : first + step] for first in range(0, len(queries), step))
        return [found for group in groups for found in self._search(group, k, allowed, fetch)]

    def _search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None, fetch: Fetch) -> list[list[tuple[int, float]]]:
        if not self.codes.n:
            return [[] for _ in queries]
        sifted = self._sift(queries, max(MOST, 2 * k), allowed)
        first = max(FIRST, 3 * k)
        exact = self._exact([ids[:first] for ids, _ in sifted], queries, fetch)
        rest = []
        for (ids, bound), scores in zip(sifted, exact, strict=True):
            worst = np.partition(scores, len(scores) - k)[len(scores) - k] if len(scores) >= k else -np.inf
            rest.append(ids[first:][bound[first:] >= worst])
        more = self._exact(rest, queries, fetch) if any(len(r) for r in rest) else [np.zeros(0, np.float32)] * len(rest)
        out = []
        for q, (ids, _) in enumerate(sifted):
            seen, scores = np.concatenate([ids[:first], rest[q]]), np.concatenate([exact[q], more[q]])
            there = np.isfinite(scores)
            out.append(best_of(seen[there], scores[there], k))
        return out

    def _sift(self, queries: np.ndarray, most: int, allowed: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query the ids of at most `most` codes, the likeliest first, and the most that each vector can score."""
        codes = self.codes
        mask = None if allowed is None else np.isin(codes.ids[: codes.n], allowed)
        distances = codes.distances(self.book.encode(np.zeros(len(queries)), queries)["bits"], mask)
        rotated, base = queries @ self.book.rotation, queries @ self.book.mean
        norms = np.linalg.norm(queries, axis=1)
        out = []
        for q in range(len(queries)):
            at = codes.nearest(distances[q])
            guess = codes.estimate(at, Planes(rotated[q])) + base[q]
            ids, bound = codes.ids[at], guess + 0.6 * SIGMAS * norms[q] * codes.factors[at]
            if len(ids) > most:
                keep = np.argpartition(-guess, most)[:most]
                ids, guess, bound = ids[keep], guess[keep], bound[keep]
            order = np.argsort(-guess, kind="stable")
            out.append((ids[order], bound[order]))
        return out

    @staticmethod
    def _exact(wanted: list[np.ndarray], queries: np.ndarray, fetch: Fetch) -> list[np.ndarray]:
        """Inner products with the vectors of the ids wanted for each query; -inf where a vector is gone."""
        ids = np.unique(np.concatenate(wanted)) if len(wanted) > 1 else np.sort(wanted[0])
        vectors = fetch(ids)
        out = []
        for q, own in enumerate(wanted):
            scores = vectors[np.searchsorted(ids, own)] @ queries[q]
            out.append(np.where(np.isnan(scores), -np.inf, scores))
        return out


Index = ExactIndex | CodedIndex
