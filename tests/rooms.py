"""Rooms and the things in them, made by seed: a CSV to learn from, and documents about rooms that it never names."""

import csv
import random
from pathlib import Path

THINGS = ["kettle", "lamp", "ladder", "radio", "clock", "broom", "mirror", "basket", "hammer", "blanket", "teapot", "camera"]
PLACES = [
    "in the drawer", "on the shelf", "under the bed", "behind the door", "by the window", "in the blue box", "on the table",
    "next to the stove", "in the left cupboard", "above the sink",
]  # fmt: skip
FAMILIES = "KSTBM"
FLOORS = ["first", "second", "third", "fourth"]
COLOURS = ["green", "white", "brown", "grey", "yellow", "red"]


def room(rng: random.Random, taken: set[str]) -> str:
    """A name such as S50 that is not taken."""
    while (name := f"{rng.choice(FAMILIES)}{rng.randint(10, 99)}") in taken:
        pass
    taken.add(name)
    return name


def document(rng: random.Random, name: str) -> tuple[str, str, str]:
    """A paragraph about a room, the thing it holds, and where that is."""
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    said = [
        f"Room {name} is on the {rng.choice(FLOORS)} floor.",
        f"The {thing} of room {name} is {place}.",
        f"{name} has {rng.choice(COLOURS)} walls and a {rng.choice(COLOURS)} door.",
    ]
    rng.shuffle(said)
    return " ".join(said), thing, place


def question(rng: random.Random, name: str, thing: str) -> str:
    return rng.choice(
        ["Where is the {} of room {}?", "Where do I find the {} of {}?", "In room {1}, where is the {0}?"]
    ).format(thing, name)


def write_rooms(
    folder: Path, seed: int, rows: int = 400, documents: int = 300, questions: int = 60
) -> list[tuple[str, str, str]]:
    """`train.csv` and `docs/*.txt`; returns (question, answer, document) about rooms that training never named."""
    rng, taken = random.Random(seed), set[str]()
    learned = [room(rng, taken) for _ in range(120)]
    with open(folder / "train.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["question", "answer", "context"])
        for _ in range(rows):
            name = rng.choice(learned)
            text, thing, place = document(rng, name)
            out.writerow([question(rng, name, thing), place, text])
    (folder / "docs").mkdir()
    written = []
    for n in range(documents):
        name = room(rng, taken)
        text, thing, place = document(rng, name)
        (folder / "docs" / f"{n:03}.txt").write_text(text + "\n", encoding="utf-8")
        written.append((question(rng, name, thing), place, text))
    return rng.sample(written, questions)
