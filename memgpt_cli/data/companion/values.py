"""Values of every type: from lists that are dealt to the splits, from numbers, and made up."""

import random
import re
from functools import cache

from memgpt_cli.data.augment import invent
from memgpt_cli.data.companion.wordings import deal, value_lists

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DAYS = {
    "en": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "zh": (
        "星期一",
        "星期二",
        "星期三",
        "星期四",
        "星期五",
        "星期六",
        "星期天",
        "周一",
        "周二",
        "周三",
        "周四",
        "周五",
        "周六",
        "周日",
    ),
}
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_SMALL = frozenset(
    [
        "a",
        "an",
        "the",
        "in",
        "on",
        "at",
        "of",
        "to",
        "for",
        "with",
        "by",
        "under",
        "behind",
        "beside",
        "between",
        "inside",
        "next",
        "near",
        "above",
        "below",
        "over",
        "two",
        "three",
        "some",
        "my",
    ]
)
"""Words that a made-up value keeps: "a plumber" becomes "a trusk"."""


@cache
def _listed(kind: str, language: str, split: str) -> tuple[str, ...]:
    """A type's values that belong to a split: 5 of 8 to training, 1 to validation, 2 to the test, by a hash."""
    share = {"train": range(5), "valid": (5,), "test": (6, 7)}[split]
    return tuple(v for v in value_lists()[kind][language] if deal(v) % 8 in share)


def _every(language: str, split: str) -> list[str]:
    """The values of all types that belong to a split."""
    return [v for kind in value_lists() for v in _listed(kind, language, split)]


@cache
def _held_out(language: str, split: str) -> frozenset[str]:
    """Every listed value that belongs to another split."""
    return frozenset(v for lists in value_lists().values() for v in lists[language]).difference(_every(language, split))


@cache
def words_of(language: str, split: str) -> tuple[str, ...]:
    """Every different word of a split's listed values, in English; in Chinese the values themselves."""
    pattern = r"[^\W\d_]{2,}" if language == "zh" else r"[^\W\d_]{3,}"
    words = (w for v in _every(language, split) for w in re.findall(pattern, v) if w.lower() not in _SMALL)
    return tuple(dict.fromkeys(words))


def _strange(value: str, rng: random.Random, split: str) -> str:
    """The value with its words made up, or changed for those of other values.

    What a model copies may begin and end with ordinary words as well as with such as it has never seen.
    """
    if not value.isascii() and not re.search(r"[A-Za-z]", value):
        return re.sub(r"[^\W\d_]+", lambda m: _strange_run(m.group(), rng, split), value)
    odd = rng.choice((0.3, 0.6, 1.0))  # so many of its words are made up
    return re.sub(
        r"[^\W_]+",
        lambda m: m.group() if m.group().lower() in _SMALL else strange_word(m.group(), rng, split, odd),
        value,
    )


def strange_word(word: str, rng: random.Random, split: str, odd: float) -> str:
    if rng.random() < odd:
        return invent(word, rng)
    other = rng.choice(words_of("en", split))
    return word if rng.random() < 0.3 else other.capitalize() if word[0].isupper() else other.lower()


def _strange_run(run: str, rng: random.Random, split: str) -> str:
    """Characters that Chinese names are made of, or the beginning of one value and the end of another."""
    if rng.random() < 0.5:
        return invent(run, rng)
    other = rng.choice(words_of("zh", split))
    return run[: rng.randint(0, len(run) - 1)] + other[rng.randint(0, len(other) - 1) :]


def _number(rng: random.Random, kind: str) -> str:
    low, high = {"age": (5, 99), "height": (140, 205), "shoe_size": (33, 48)}.get(kind, (1, 999))
    return str(rng.randint(low, high))


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _code(rng: random.Random) -> str:
    parts = [
        rng.choice(("".join(rng.choices(_LETTERS, k=rng.randint(1, 3))), _digits(rng, rng.randint(2, 4)), invent("Ab", rng)))
        for _ in range(rng.randint(2, 3))
    ]
    return rng.choice(("-", "", " ", "-")).join(parts)


def _phone(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return f"1{_digits(rng, 10)}"
    return rng.choice(("0", "+49 ", "+1 ", "0")) + rng.choice((" ", "-", "")).join(
        _digits(rng, rng.randint(2, 4)) for _ in range(3)
    )


def _time(rng: random.Random, language: str) -> str:
    hour, minute = rng.randint(0, 23), rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50))
    if language == "zh":
        return (
            rng.choice(("", "早上", "下午", "晚上"))
            + f"{rng.randint(1, 12)}点"
            + ("" if not minute else "半" if minute == 30 else f"{minute}分")
        )
    return rng.choice(
        (f"{hour}:{minute:02}", f"{rng.randint(1, 12)}:{minute:02}", f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}")
    )


def _date(rng: random.Random, language: str) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    if language == "zh":
        return f"{month}月{day}{rng.choice('日号')}"
    name = _MONTHS[month - 1]
    return rng.choice((f"{day} {name}", f"{name} {day}", f"the {day}th of {name}" if 3 < day < 21 else f"{day} {name}"))


def _made(kind: str, rng: random.Random, language: str, relation: str) -> str | None:
    """A value of the types that no list holds, else None."""
    zh = language == "zh"
    if kind == "number":
        return _number(rng, relation)
    if kind == "weekday":
        return rng.choice(_DAYS[language])
    if kind == "price":
        amount = str(rng.randint(2, 60) * rng.choice((1, 5, 10, 50)))
        return amount + (rng.choice(("元", "块钱", "块")) if zh else rng.choice((" euros", " dollars", " pounds")))
    if kind == "when":
        day = rng.choice((rng.choice(_DAYS[language]), _date(rng, language)))
        return f"{day}{_time(rng, language)}" if zh else f"{day} at {_time(rng, language)}"
    makers = {
        "code": lambda: _code(rng),
        "phone": lambda: _phone(rng),
        "time": lambda: _time(rng, language),
        "date": lambda: _date(rng, language),
    }
    return makers[kind]() if kind in makers else None


def make_value(kind: str, rng: random.Random, language: str, split: str, relation: str = "", strange: float = 0.3) -> str:
    """A value of a type; with probability `strange` one that nobody has ever seen."""
    made = _made(kind, rng, language, relation)
    if made is not None:
        return made
    if kind == "address":
        street = make_value("street", rng, language, split, strange=strange)
        return f"{street}{rng.randint(1, 199)}号" if language == "zh" else f"{rng.randint(1, 199)} {street}"
    if kind == "full_name":
        return " ".join(make_value("given_name", rng, language, split, strange=strange) for _ in range(2))
    value = rng.choice(_listed(kind, language, split))
    if rng.random() >= strange:
        return value
    return next(v for v in iter(lambda: _strange(value, rng, split), None) if v not in _held_out(language, split))
