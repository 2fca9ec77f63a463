"""What MetaQA counts as wrong: `python docs/metaqa_errors.py KB PREDICTIONS` (kb.tsv, and eval/test-store-store.jsonl of the run).

Films of one title are one name in its graph, but a question's right answers are those of one of them. An answer that the graph does hold, of
the question's entity in the relation that was asked for, is counted by itself.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

of: dict[tuple[str, str], set[str]] = defaultdict(set)  # (entity, relation to it or from it) -> the other ends
for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
    subject, relation, value = line.split("\t")
    of[subject, relation].add(value)
    of[value, f"{relation} of"].add(subject)
relations = sorted({relation for _, relation in of})
counts: Counter[str] = Counter()
for line in Path(sys.argv[2]).read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    said, right = row["prediction"].strip(), set(row["references"])
    entity = re.findall(r"\[ (.*?) \]", row["input"])[0]
    asked = [name for name in relations if of.get((entity, name), set()) >= right]
    if said in right:
        counts["right"] += 1
    elif any(said in of[entity, name] for name in asked):
        counts["in the graph, of the same entity and relation, but not among the right answers"] += 1
    elif any(said in of.get((entity, name), ()) for name in relations):
        counts["of the same entity in another relation"] += 1
    else:
        counts["another entity's, or misspelt"] += 1
for name, count in counts.most_common():
    print(f"{100 * count / counts.total():6.2f} %  {count:6,}  {name}")
