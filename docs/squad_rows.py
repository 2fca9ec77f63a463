"""SQuAD's format (CMRC 2018's and DRCD's too) as questions over a corpus: `python docs/squad_rows.py FILE FOLDER`.

FOLDER gets `passages.jsonl` (id, text) and `train.jsonl`, `valid.jsonl`, `test.jsonl` (question, answer: all that are right, evidence: the
passage's id): of every ten articles one is for validation and two are for the test, and the passages of all of them are the corpus.
"""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
passages: list[str] = []
rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
for number, article in enumerate(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["data"]):
    split = {0: "valid", 1: "test", 2: "test"}.get(number % 10, "train")
    for paragraph in article["paragraphs"]:
        name = f"p{len(passages)}"
        passages.append(json.dumps({"id": name, "text": paragraph["context"]}, ensure_ascii=False))
        for asked in paragraph["qas"]:
            answers = list(dict.fromkeys(answer["text"] for answer in asked["answers"]))
            row = {"question": asked["question"], "answer": answers, "evidence": name}
            rows[split].append(json.dumps(row, ensure_ascii=False))
(folder / "passages.jsonl").write_text("\n".join(passages) + "\n", encoding="utf-8")
for split, lines in rows.items():
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
