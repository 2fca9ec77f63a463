"""Values of every type: from lists that are dealt to the splits, from numbers, and made up."""

import random
import re
from collections.abc import Sequence
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


_SHARES = {"train": range(5), "valid": range(5, 6), "test": range(6, 8)}
"""Of 8, by a hash."""


@cache
def _listed(kind: str, language: str, split: str) -> tuple[str, ...]:
    """A type's values that belong to a split: 5 of 8 to training, 1 to validation, 2 to the test, by a hash."""
    return tuple(v for v in value_lists()[kind][language] if deal(v) % 8 in _SHARES[split])


def _every(language: str, split: str) -> list[str]:
    """The values of all types that belong to a split."""
    return [v for kind in value_lists() for v in _listed(kind, language, split)]


@cache
def _held_out(language: str, split: str) -> frozenset[str]:
    """Every listed value that belongs to another split."""
    return frozenset(v for lists in value_lists().values() for v in lists[language]).difference(_every(language, split))


@cache
def words_of(language: str, split: str, kind: str = "") -> tuple[str, ...]:
    """Every different word of a split's listed values, of one type or of all; in Chinese runs of characters."""
    pattern = r"[^\W\d_]{2,}" if language == "zh" else r"[^\W\d_]{3,}"
    values = _listed(kind, language, split) if kind else _every(language, split)
    words = (w for v in values for w in re.findall(pattern, v) if w.lower() not in _SMALL)
    return tuple(dict.fromkeys(words))


def _strange(value: str, rng: random.Random, split: str, kind: str) -> str:
    """The value with its words made up, or changed for those of other values of its type.

    What a model copies may begin and end with ordinary words as well as with such as it has never seen.
    """
    if not value.isascii() and not re.search(r"[A-Za-z]", value):
        others = words_of("zh", split, kind)
        return re.sub(r"[^\W\d_]+", lambda m: _strange_run(m.group(), rng, others), value)
    odd, others = rng.choice((0.3, 0.6, 1.0)), words_of("en", split, kind)  # so many of its words are made up
    return re.sub(
        r"[^\W_]+",
        lambda m: m.group() if m.group().lower() in _SMALL else strange_word(m.group(), rng, others, odd),
        value,
    )


def strange_word(word: str, rng: random.Random, others: Sequence[str], odd: float) -> str:
    """A word made up, with probability `odd`, else one of `others` or itself."""
    if not others or rng.random() < odd:
        return invent(word, rng)
    other = rng.choice(others)
    return word if rng.random() < 0.3 else other.capitalize() if word[0].isupper() else other.lower()


def _strange_run(run: str, rng: random.Random, others: Sequence[str]) -> str:
    """Characters that Chinese names are made of, or the beginning of one value and the end of another."""
    if not others or rng.random() < 0.5:
        return invent(run, rng)
    other = rng.choice(others)
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


_TEENS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ZH_DIGITS = "零一二三四五六七八九"


def in_words(number: int, language: str) -> str:
    """A number from 0 to 99 in words."""
    tens, ones = divmod(number, 10)
    if language == "zh":
        return ("" if tens < 2 else _ZH_DIGITS[tens]) + ("十" if tens else "") + (_ZH_DIGITS[ones] if ones or not tens else "")
    return _TEENS[number] if number < 20 else _TENS[tens - 2] + (f"-{_TEENS[ones]}" if ones else "")


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _time(rng: random.Random, language: str) -> str:
    hour, minute = rng.randint(0, 23), rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50))
    clock = rng.randint(1, 12)
    if language == "zh":
        said = rng.choice((str(clock), str(clock), "两" if clock == 2 else in_words(clock, "zh")))
        words = not said.isdigit()
        past = in_words(minute, "zh") if words else str(minute)
        end = "" if not minute else "半" if minute == 30 else "一刻" if minute == 15 and words else f"{past}分"
        return rng.choice(("", "早上", "上午", "中午", "下午", "晚上")) + f"{said}点{end}"
    if rng.random() < 0.35:
        word = in_words(clock, "en")
        return rng.choice(
            (
                f"half past {word}", f"half {word}", f"quarter to {word}", f"quarter past {word}", f"{word} o'clock", word,
                f"{word} in the morning", f"{word} in the evening", f"{clock} in the afternoon", f"ten to {word}", "noon",
            )
        )  # fmt: skip
    return rng.choice(
        (f"{hour}:{minute:02}", f"{clock}:{minute:02}", f"{clock}{rng.choice(('', ' '))}{rng.choice(('am', 'pm'))}",
         f"{clock}:{minute:02} {rng.choice(('am', 'pm', 'a.m.', 'p.m.'))}")
    )  # fmt: skip


def _date(rng: random.Random, language: str) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 31 if rng.random() < 0.1 else 28)
    if language == "zh":
        if rng.random() < 0.35:
            return f"{in_words(month, 'zh')}月{in_words(day, 'zh')}{rng.choice('日号')}"
        return f"{month}月{day}{rng.choice('日号')}"
    name = _MONTHS[month - 1]
    nth = _ordinal(day)
    return rng.choice(
        (f"{day} {name}", f"{name} {day}", f"the {nth} of {name}", f"{name} {nth}", f"{nth} {name}", f"{nth} of {name}")
    )


def _price(rng: random.Random, language: str) -> str:
    amount = rng.randint(2, 60) * rng.choice((1, 5, 10, 50))
    if language == "zh":
        said = in_words(amount, "zh") if amount < 100 and rng.random() < 0.3 else str(amount)
        return said + rng.choice(("元", "块钱", "块"))
    if rng.random() < 0.4:
        return rng.choice("€$£") + rng.choice((f"{amount:,}", f"{amount}.{rng.choice(('50', '99', '20'))}"))
    said = in_words(amount, "en") if amount < 100 and rng.random() < 0.3 else rng.choice((f"{amount:,}", str(amount)))
    return said + rng.choice((" euros", " dollars", " pounds", " quid", " bucks"))


def _when(rng: random.Random, language: str) -> str:
    day = rng.choice((rng.choice(_DAYS[language]), _date(rng, language)))
    if language == "zh":
        return (
            rng.choice(("", "", "下")) * (day[0] in "星周")
            + day
            + rng.choice(("", "的") if day[-1] in "日号" else ("",))
            + _time(rng, "zh")
        )
    if rng.random() < 0.2:
        return day + rng.choice((" morning", " afternoon", " evening", "", " at lunchtime"))
    return f"{day}{rng.choice((' at ', ' at ', ', '))}{_time(rng, 'en')}"


def _place(rng: random.Random, language: str, split: str) -> str:
    """Where something lies, in parts: "in the top drawer of the desk"."""
    spot, other = (rng.choice(_listed("spot", language, split)) for _ in range(2))
    where, which = (rng.choice(_listed(kind, language, "train")) for kind in ("position", "which"))
    which = rng.choice(("", which))
    if language == "zh":
        return rng.choice(("", "", f"{other}{rng.choice(('', '旁边', '那边'))}的", rng.choice(_ROOMS))) + which + spot + where
    detail = rng.choice(_DETAILS).format(other)
    return f"{where} the {which + ' ' if which else ''}{spot}{rng.choice(('', '', detail))}"


def _person(rng: random.Random, language: str, split: str) -> str:
    """A person as they are named: by a given name, with their surname, or with what they are addressed by."""
    how = rng.random()
    if how < 0.65:
        return rng.choice(_listed("given_name", language, split))
    surname = rng.choice(_listed("surname", language, split))
    if how < 0.73:
        title = rng.choice(_TITLES[language])
        return f"{surname}{title}" if language == "zh" else f"{title} {surname}"
    if language == "en":
        return f"{rng.choice(_listed('given_name', language, split))} {surname}"
    share = _SHARES[split]
    return next(
        name
        for name in iter(lambda: surname + "".join(rng.choices(_ZH_GIVEN, k=rng.choice((1, 2, 2)))), None)
        if deal(name) % 8 in share
    )


_TITLES = {
    "en": ("Mr", "Mrs", "Ms", "Mr.", "Mrs.", "Dr", "Dr.", "Professor", "Aunt", "Uncle"),
    "zh": ("老师", "医生", "师傅", "先生", "女士", "阿姨", "叔叔", "主任", "经理", "大夫", "总", "姐", "哥", "教授"),
}
_ZH_GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀兰霞平刚桂英华玉红建国文辉力金凤梅春雪琳云莲真环雅珍妍希怡倩婷宁子涵浩宇轩梓萱欣悦"
    "一诺晨思远博瑞佳琪睿泽雨桐可馨俊豪天佑嘉懿志鹏飞龙海波亮东斌松柏林森鑫淼清源知行书墨言若安然乐康健福生贵富荣昌"
)


def _title(rng: random.Random, language: str, split: str) -> str:
    """The title of a book, a film or a series, of words of other values."""
    a, b = (rng.choice(words_of(language, split)) for _ in range(2))
    if language == "zh":
        return "《" + rng.choice(("{}的{}", "{}与{}", "{}{}", "{}之{}", "我的{}{}", "{}不{}", "再见{}{}")).format(a, b) + "》"
    pattern = rng.choice(
        (
            "The {} of the {}", "{} and {}", "{}, {}", "{} in the {}", "The {} {}", "A {} for {}", "{} of {}", "No {} for {}",
            "How to {} a {}", "{}: A {}", "The {}'s {}", "My {} {}", "{} without a {}", "Half of a {} {}", "All the {} We {}",
        )
    )  # fmt: skip
    return pattern.format(a.capitalize(), b.capitalize())


_ROOMS = ("厨房", "客厅", "办公室", "阳台", "车库", "卧室", "楼下", "公司", "我房间", "书房")
_DETAILS = (
    " of the {}", " by the {}", " next to the {}", " near the {}", " behind the {}", " in the hall", " at the office",
    " at my mum's", " in the kids' room", " on the left", " upstairs", " in the kitchen", " at work", " in my room",
)  # fmt: skip


def _made(kind: str, rng: random.Random, language: str, relation: str) -> str | None:
    """A value of the types that no list holds, else None."""
    if kind == "number":
        number = rng.randint(5, 99) if relation == "age" and rng.random() < 0.3 else 0
        return in_words(number, language) if number else _number(rng, relation)
    if kind == "weekday":
        return rng.choice(_DAYS[language])
    makers = {
        "code": lambda: _code(rng),
        "phone": lambda: _phone(rng),
        "time": lambda: _time(rng, language),
        "date": lambda: _date(rng, language),
        "when": lambda: _when(rng, language),
        "price": lambda: _price(rng, language),
    }
    return makers[kind]() if kind in makers else None


def _listed_value(kind: str, rng: random.Random, language: str, split: str, relation: str) -> str:
    """A value of the lists, or one of their parts."""
    if kind == "place" and rng.random() < 0.5:
        return _place(rng, language, split)
    if kind == "title" and rng.random() < 0.4:
        return _title(rng, language, split)
    if kind == "given_name" and relation not in ("cat_name", "dog_name"):
        return _person(rng, language, split)
    return rng.choice(_listed(kind, language, split))


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
    others = _held_out(language, split)
    value = next(v for v in iter(lambda: _listed_value(kind, rng, language, split, relation), None) if v not in others)
    if rng.random() >= strange:
        return value
    return next(v for v in iter(lambda: _strange(value, rng, split, kind), None) if v not in others)
