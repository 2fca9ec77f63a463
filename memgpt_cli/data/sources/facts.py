"""Facts about people who do not exist, made by seed: the purest measure of memory.

Nothing can be known beforehand: names and values are random. Name parts are dealt to the splits by a hash, so that no
name of the test ever occurs in training. Many people share a given or a family name: near-namesakes are what makes
reading hard.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from memgpt_cli.data.sources import Source, Where
from memgpt_cli.errors import ConfigError
from memgpt_cli.schema import Entry, Episode, Example, render_triple

ATTRIBUTES = {
    "en": ("job", "city", "pet", "food", "color", "hobby", "car", "sport", "drink", "song"),
    "zh": ("职业", "城市", "宠物", "食物", "颜色", "爱好", "汽车", "运动", "饮料", "歌曲"),
}
WORDINGS = {
    "en": (
        "what is the {a} of {p} ?",
        "tell me the {a} for {p}",
        "{p} : which {a} ?",
        "do you know {p} 's {a} ?",
        "{a} of {p} please",
    ),
    "zh": ("{p}的{a}是什么？", "请告诉我{p}的{a}", "{a}：{p}？", "你知道{p}的{a}吗？", "{p}有什么{a}？"),
}
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎"
_CHARACTERS = (
    "明国华建文平志伟东海强晓生光林小民永杰军波成荣新峰刚家龙德庆斌辉良玉俊立浩天宏子金健一忠洪江福祥中正振勇耀春大宁亮宇兴宝少剑云学仁涛"
    "瑞飞鹏安亚泽世汉达卫利胜敏群松克清长嘉红山贤阳乐锋智青跃元武广思雄锦威启昌铭维义宗英凯鸿森超坚旭政传康继翔远力进泉茂毅富博霖顺信凡豪树和恩"
    "向道川彬柏磊敬书鸣芳培全炳基冠晖京欣廷哲保秋君劲栋仲权奇礼楠炜友年震鑫雷兵万星骏伦绍麟雨行才希彦兆贵源有景升惠臣慧开章润高佳虎根诚夫声冬奎扬双坤镇楚水铁喜之迪泰方同滨邦先聪朝善非恒晋汝丹为晨乃秀岩辰洋然厚灿卓轩帆若连勋祖锡吉崇钧田石奕发洲彪钢运伯满庭申湘皓承梓雪孟其潮冰怀鲁裕翰征谦航士尧标洁城寿枫革纯风化逸腾岳银鹤琳显焕来心凤睿勤延凌昊西羽百捷定琦圣佩麒虹如靖日咏会久昕黎桂玮燕可越彤雁孝宪萌颖艺夏桐月瑜沛诗童音"
)


@dataclass(frozen=True)
class FactsOptions:
    """
    facts: facts an episode of training holds at most; attributes: facts a person has.
    episodes_train, episodes_valid, episodes_test: how many; questions: asked in each.
    language: en | zh | both (half of each).
    namesakes: share of the people who share a part of their name with another one.
    """

    facts: int = 256
    facts_min: int = 32
    facts_test: int = 256
    attributes: int = 4
    questions: int = 16
    episodes_train: int = 1500
    episodes_valid: int = 16
    episodes_test: int = 32
    language: str = "en"
    namesakes: float = 0.5

    def __post_init__(self) -> None:
        if self.language not in ("en", "zh", "both"):
            raise ConfigError(f"data.options.language is '{self.language}', expected en, zh or both")
        if not 1 <= self.attributes <= len(ATTRIBUTES["en"]):
            raise ConfigError(f"data.options.attributes is {self.attributes}, expected 1 to {len(ATTRIBUTES['en'])}")
        if not 1 <= self.facts_min <= self.facts:
            raise ConfigError(f"data.options.facts_min is {self.facts_min}, expected 1 to {self.facts} (facts)")


def _belongs(part: str, split: str) -> bool:
    """Deals name parts to splits: 2 of 16 to the test, 1 to validation, 13 to training."""
    deal = zlib.crc32(part.encode()) % 16
    return {"test": deal < 2, "valid": deal == 2}.get(split, deal > 2)


def _word(rng: random.Random, syllables: tuple[int, int]) -> str:
    return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(*syllables)))


def _part(rng: random.Random, language: str, split: str) -> str:
    while True:
        part = _word(rng, (2, 3)) if language == "en" else rng.choice(_CHARACTERS) + rng.choice(_CHARACTERS)
        if _belongs(part, split):
            return part


def _slip(rng: random.Random, part: str, language: str) -> str:
    """The part with one syllable (or character) changed: as near as names come."""
    size = 2 if language == "en" else 1
    at = size * rng.randrange(len(part) // size)
    new = _word(rng, (1, 1)) if language == "en" else rng.choice(_CHARACTERS)
    return part[:at] + new + part[at + size :]


def people(rng: random.Random, count: int, language: str, split: str, namesakes: float) -> list[str]:
    """`count` different full names whose parts belong to `split`; namesakes share a part, half of them nearly both."""
    names: dict[str, tuple[str, str]] = {}
    parts: list[tuple[str, str]] = []
    while len(names) < count:
        given = _part(rng, language, split)
        family = _part(rng, language, split) if language == "en" else rng.choice(_SURNAMES)
        if parts and rng.random() < namesakes:
            other = rng.choice(parts)
            near = _slip(rng, other[0], language)
            if rng.random() < 0.5 and _belongs(near, split):
                given, family = near, other[1]
            else:
                given, family = (other[0], family) if rng.random() < 0.5 else (given, other[1])
        name = f"{given} {family}" if language == "en" else family + given
        if name not in names:
            names[name] = given, family
            parts.append((given, family))
    return list(names)


def make_facts(rng: random.Random, count: int, language: str, split: str, options: FactsOptions) -> list[tuple[str, str, str]]:
    """`count` triples (person, attribute, value) in random order."""
    triples = []
    for person in people(rng, -(-count // options.attributes), language, split, options.namesakes):
        for attribute in rng.sample(ATTRIBUTES[language], options.attributes):
            value = _word(rng, (2, 3)) if language == "en" else "".join(rng.choices(_CHARACTERS, k=rng.randint(2, 3)))
            triples.append((person, attribute, value))
    rng.shuffle(triples)
    return triples[:count]


def ask(rng: random.Random, triple: tuple[str, str, str], language: str) -> str:
    return rng.choice(WORDINGS[language]).format(p=triple[0], a=triple[1])


def facts_episode(rng: random.Random, name: str, count: int, language: str, split: str, options: FactsOptions) -> Episode:
    """An episode of `count` facts that every question sees whole."""
    triples = make_facts(rng, count, language, split, options)
    gold = rng.sample(range(count), min(options.questions, count))
    entries = tuple(Entry(render_triple(*t), "fact", {"triple": list(t)}) for t in triples)
    examples = tuple(Example(ask(rng, triples[g], language), triples[g][2], count, evidence=(g,), task="qa") for g in gold)
    return Episode(name, entries, examples)


def generate_facts(path: object, options: FactsOptions, where: Where) -> Iterator[Episode]:
    """Episodes of one split; sizes of training vary between `facts_min` and `facts`, the test's are `facts_test`."""
    rng = random.Random(f"{where.seed}/{where.split}")
    episodes = getattr(options, f"episodes_{where.split}")
    for n in range(episodes):
        language = options.language if options.language != "both" else ("en", "zh")[n % 2]
        count = options.facts_test if where.split == "test" else rng.randint(options.facts_min, options.facts)
        yield facts_episode(rng, f"facts/{where.split}/{n}", count, language, where.split, options)


FACTS = Source(generate_facts, FactsOptions, needs_file=False)
