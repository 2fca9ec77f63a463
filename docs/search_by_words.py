"""How well the store finds by words, beside `bm25s` with English stems and stop words: `python docs/search_by_words.py FILE…`.

A FILE is of SQuAD's format (questions over paragraphs; Chinese is cut into pairs of characters for `bm25s`) or DialogSum's (summaries over
the turns of all dialogues: any turn of the right one counts). `pip install bm25s PyStemmer` beforehand.
"""

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import bm25s
import Stemmer

from memgpt_cli.store import Item, open_store

TOP = (1, 10, 32)


def read(path: Path) -> tuple[list[str], list[tuple[str, set[int]]]]:
    """Texts, and queries with the numbers of the texts that answer them."""
    number: dict[str, int] = {}
    queries: list[tuple[str, set[int]]] = []
    if path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            turns = {number.setdefault(turn, len(number)) for turn in row["dialogue"].split("\n") if turn.strip()}
            queries += [(row[name], turns) for name in ("summary", "summary1") if row.get(name)]
    else:
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                place = number.setdefault(paragraph["context"].strip(), len(number))
                queries += [(asked["question"], {place}) for asked in paragraph["qas"]]
    return list(number), queries


def by_store(texts: list[str], queries: list[str]) -> list[list[int]]:
    with tempfile.TemporaryDirectory() as folder, open_store(str(Path(folder) / "s.sqlite")) as store:
        places = {id: n for n, id in enumerate(store.put("n", [Item(text) for text in texts]).ids)}
        return [[places[hit.entry.id] for hit in store.search("n", texts=[query], k=TOP[-1])[0]] for query in queries]


def by_bm25s(texts: list[str], queries: list[str]) -> list[list[int]]:
    chinese = "的" in texts[0]
    if chinese:
        tokens, asked = ([re.findall(r"(?=(\w\w))", text) for text in some] for some in (texts, queries))
    else:
        options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False, "return_ids": False}
        tokens, asked = bm25s.tokenize(texts, **options), bm25s.tokenize(queries, **options)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    found = index.retrieve(asked, k=min(TOP[-1], len(texts)), show_progress=False)
    return [row.tolist() for row in found.documents]


for name in sys.argv[1:]:
    texts, queries = read(Path(name))
    for what, search in (("store", by_store), ("bm25s", by_bm25s)):
        begin = time.perf_counter()
        found = search(texts, [query for query, _ in queries])
        hits = [
            100 * sum(bool(right & set(row[:k])) for row, (_, right) in zip(found, queries, strict=True)) / len(queries)
            for k in TOP
        ]
        scores = "  ".join(f"recall@{k} {hit:.2f}" for k, hit in zip(TOP, hits, strict=True))
        print(
            f"{Path(name).name}: {what}  {scores}  ({len(queries):,} queries, {len(texts):,} texts, {time.perf_counter() - begin:.1f} s)"
        )
