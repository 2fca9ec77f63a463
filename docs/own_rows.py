"""Rows and documents as a user may have them, made up by seed: `python docs/own_rows.py SEED FOLDER DOCUMENTS`.

FOLDER gets `rows.csv` (question, answer, context: two questions of each of 1,500 texts), `documents/` (as many text files of the
same kinds, about others), `asked.csv` (a question of each of the first 300 of them) and `questions.csv` (question, answer: two of each of the
1,500 that follow; no row says which document holds its answer).
"""

import csv
import random
import sys
from collections.abc import Callable
from pathlib import Path

Asked = list[tuple[list[str], str]]
rng = random.Random(int(sys.argv[1]))
FIRST = "Ann Ben Cara Dan Eva Finn Gus Hana Ivo Jill Kai Lena Milo Nora Otto Pia Rosa Sam Tess Uwe Vera Will Yara Zoe"
PARTS = (
    "ar bel cor dun el far gal hin iv jas kel lor mer nor ov pel quin ros sal tor ul ven wes yar zan",
    "a e i o u en in on ar or el is us ia eo",
    "dale ton wick mont stad burg ra na ko vik lin den sen mark ford ley",
)


def one_of(words: str) -> str:
    return rng.choice(words.split())


def name() -> str:
    return "".join(map(one_of, PARTS)).capitalize()


def person() -> str:
    return f"{one_of(FIRST)} {name()}"


def lamp() -> tuple[str, Asked]:
    lamp, weight, price = f"{name()} {rng.randint(100, 990)}", f"{rng.randint(1, 40)} kg", f"{rng.randint(10, 900)} euros"
    stuff, town, year = (
        one_of("oak steel bamboo linen glass copper wool plastic marble leather cork ceramic"),
        name(),
        f"{rng.randint(1950, 2023)}",
    )
    more = rng.choice(["It comes with a spare bulb.", "Delivery takes a week.", "A longer cable can be ordered."])
    text = f"The {lamp} is a lamp made of {stuff}. It has been built in {town} since {year}. One piece weighs {weight} and costs {price} in the shop. {more}"
    return text, [
        ([f"How much does the {lamp} cost?", f"What is the price of the {lamp}?", f"What do I pay for a {lamp}?"], price),
        ([f"How heavy is the {lamp}?", f"What does the {lamp} weigh?"], weight),
        ([f"What is the {lamp} made of?", f"Which material is the {lamp}?"], stuff),
        ([f"Where is the {lamp} built?", f"In which town is the {lamp} made?"], town),
        ([f"Since when has the {lamp} been built?", f"When did they begin to build the {lamp}?"], year),
    ]


def colleague() -> tuple[str, Asked]:
    who, room, phone = person(), f"{rng.randint(1, 5)}.{rng.randint(10, 99)}", f"{rng.randint(1000, 9999)}"
    day, other = one_of("Monday Tuesday Wednesday Thursday Friday"), person()
    team = one_of("accounting sales design support research logistics")
    text = f"{who} joined {team} in {rng.randint(1999, 2024)}. The desk is in room {room}, extension {phone}. {who} works from home on {day}. In case of illness {other} takes over."
    return text, [
        ([f"In which room does {who} sit?", f"Where is {who}'s desk?"], room),
        ([f"What is {who}'s extension?", f"Under which number do I reach {who}?"], phone),
        ([f"On which day does {who} work from home?", f"When is {who} not in the office?"], day),
        ([f"Who takes over for {who}?", f"Who stands in when {who} is ill?"], other),
        ([f"Which department is {who} in?", f"Where in the company does {who} work?"], team),
    ]


def sight() -> tuple[str, Asked]:
    place, opens, fee = (
        f"{name()} {one_of('Museum Library Theatre Castle')}",
        f"{rng.randint(7, 11)} am",
        f"{rng.randint(2, 30)} euros",
    )
    architect, year, bus = person(), f"{rng.randint(1700, 2010)}", f"{rng.randint(1, 99)}"
    text = f"{place} was founded in {year} and designed by {architect}. Doors open at {opens}; a ticket is {fee}, children are free. Bus {bus} stops in front of it."
    return text, [
        ([f"When does {place} open?", f"From what time can one visit {place}?"], opens),
        ([f"How much is a ticket for {place}?", f"What does it cost to enter {place}?"], fee),
        ([f"Who designed {place}?", f"Who was the architect of {place}?"], architect),
        ([f"When was {place} founded?", f"In what year did {place} begin?"], year),
        ([f"Which bus goes to {place}?", f"Which line stops at {place}?"], bus),
    ]


KINDS: list[Callable[[], tuple[str, Asked]]] = [lamp, colleague, sight]
folder, documents = Path(sys.argv[2]), int(sys.argv[3])
(folder / "documents").mkdir(parents=True, exist_ok=True)
with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["question", "answer", "context"])
    for _ in range(1500):
        text, asked = rng.choice(KINDS)()
        rows.writerows([rng.choice(questions), answer, text] for questions, answer in rng.sample(asked, 2))
with open(folder / "asked.csv", "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["question", "answer", "context"])
    others: list[Asked] = []
    for n in range(documents):
        text, asked = rng.choice(KINDS)()
        (folder / "documents" / f"{n:05}.txt").write_text(text + "\n", encoding="utf-8")
        if n < 300:
            questions, answer = rng.choice(asked)
            rows.writerow([rng.choice(questions), answer, text])
        else:
            others.append(asked)
with open(folder / "questions.csv", "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["question", "answer"])
    for asked in others[:1500]:
        rows.writerows([rng.choice(questions), answer] for questions, answer in rng.sample(asked, 2))
