"""Consistent renaming within an episode: what is copied becomes words nobody has ever seen.

Without it a model learns the ten cuisines of its training data by heart and copies nothing.
"""

import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

import regex

from memgpt_cli.config import RenameConfig
from memgpt_cli.data.spans import copied_spans, is_unspaced
from memgpt_cli.schema import Episode, parse_triple, render_triple

_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "ch",
    "sh",
    "th",
    "br",
    "kr",
    "st",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ie", "ou"]
_CODAS = [""] * 6 + ["n", "r", "s", "l", "m", "ng", "nd", "se", "k", "t", "y"]
# what other languages have besides
_MORE_ONSETS = [
    *_ONSETS,
    *["y", "pl", "gr", "tr", "fl", "sch", "dz", "ts", "kh", "qu", "mb", "ny", "zh", "ñ", "ç", "š", "ø", "x", "hv", "szcz"],
    "",
    "",
]
_MORE_VOWELS = [*_VOWELS, *["ee", "oo", "io", "ue", "ä", "ö", "ü", "é", "á", "ó", "å", "aa", "y"]]
_MORE_CODAS = [*_CODAS, *["x", "ck", "rt", "ss", "ll", "ez", "ić", "ski", "dt", "ł", "nn", "ff", "rsch"]]
# the characters that Chinese names and things are made of, so that a made-up one looks like them; and any other in use now and
# then (GB 2312's first level). Not those of grammar: where a name of them ends, in a text without spaces, nobody could tell
_HAN = b"".join(bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF if row < 0xD7 else 0xFA)).decode(
    "gb2312"
)
_COMMON = (
    "人家山水火木金土云雨雪风霜雷花草树林森江河湖海洋石玉珠沙岩峰谷泉溪龙凤虎豹狮马牛羊鱼鸟猫犬兔鹿熊象鹤燕雁蝶蜂米面茶酒糖盐油饭菜果梅兰竹菊桃李杏枣莲荷"
    "松柏杨柳春夏秋冬东西南北红黄蓝绿白黑紫青银铜铁钢橙灰衣帽鞋袜裙衫车船桥路街巷楼房门窗灯桌椅床柜书笔纸画琴棋歌舞诗词星月光电声色香味甜酸苦辣早晚晨夜阳"
    "晴明亮王张刘陈赵周吴徐孙胡朱高何郭罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴钟汪田任姜范方伟芳娜敏静丽强磊军勇艳杰娟涛超"
    "秀霞平刚桂英华慧巧美宁志义兴良仁波贵福生元全国胜学祥才发武新利清飞彬富顺信子昌成康天达安中茂进有坚和彪博诚先敬震振壮会思群豪心邦承乐绍功善厚庆医师护"
    "士工匠商店馆堂院校园站场城市镇村乡港湾岛机器针线刀剑弓箭球拍鼓笛号角瓶杯碗盘锅炉勺筷箱包袋盒伞镜表钥锁链环戒项耳手头脚眼鼻口舌牙肝胃骨肉皮毛豆腐饼糕"
    "欣怡涵梓轩宇浩然萱琪佳嘉俊晨曦沐若莉萌婷雯琳倩妍瑶悦彤熙睿航皓铭哲泽霖凯鑫婉妮娅露薇蕾颖莹晶瑾瑜璐茜岚雅淑惠珍凤琼玲翠雁卉菲蓓芸苗蔓蓉莎依伊诺辰煜烨炎锦钧锋镇毅"
    "翔鹏鸿骏驰腾奕昊昕晖辉峻崇岳巍琛珂珊玮璇瑞祺祥禾稼穗苹莓葵芦荟蘑菌菠芥芋薯蚕蛙龟蛇狼猴熊猪骡驴鸽鹰鹦鹉鲈鲤鳗鲨贝螺炸烤蒸煮炒烧卤拌焖浆糕酱醋酪椰卫丹嘉孟"
    "粥汤粉虾蟹鸡鸭鹅蛋奶麦芝麻核榛栗椒葱蒜韭芹萝卜瓜茄菇笋藕橘柚梨葡萄樱柠檬咖啡可碧药片膏丸"
)


def _word(rng: random.Random) -> str:
    """A word that is none: of syllables as several languages have them, or now and then of any letters and digits."""
    kind = rng.random()
    if kind < 0.08:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz" + "0123456789" * (kind < 0.02), k=rng.randint(2, 8)))
    parts = (_ONSETS, _VOWELS, _CODAS) if kind < 0.75 else (_MORE_ONSETS, _MORE_VOWELS, _MORE_CODAS)
    syllables = range(rng.choice((1, 1, 2, 2, 2, 2, 3)))
    return "".join(
        rng.choice(sounds) for n in syllables for sounds in (parts if n == syllables[-1] or kind > 0.5 else parts[:2])
    )


def _cased(word: str, like: str, rng: random.Random) -> str:
    """The word in the letter case of another; of what begins with a capital, sometimes with one inside."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    if not like[0].isupper():
        return word
    cut = rng.randint(1, max(1, len(word) - 2)) if rng.random() < 0.05 else 0
    return word[:cut].capitalize() + word[cut:].capitalize()


def invent(value: str, rng: random.Random) -> str:
    """A made-up value in the script of `value`: syllables for letters, characters for Chinese, digits for digits."""
    out = []
    for run in re.findall(r"[^\W\d_]+|\d+|[\W_]+", value):
        if run.isdigit():
            out.append("".join(rng.choice("0123456789") for _ in run))
        elif "CJK" in unicodedata.name(run[0], ""):
            size = max(1, len(run) + rng.choice((-1, 0, 0, 0, 1)))
            out.append("".join(rng.choice(_HAN if rng.random() < 0.1 else _COMMON) for _ in range(size)))
        elif run.isalpha():
            out.append(_cased(_word(rng), run, rng))
        else:
            out.append(run)
    return "".join(out)


def values_of(episodes: Iterable[Episode], relations: tuple[str, ...]) -> list[str]:
    """The different values these relations take anywhere in the data, the longest first."""
    values = set()
    for episode in episodes:
        for entry in episode.entries:
            triple = parse_triple(entry.text) if entry.kind == "fact" else None
            if triple and triple[1] in relations:
                values.add(triple[2])
    return sorted(values, key=lambda v: (-len(v), v))


class Renamer:
    """Renames consistently within whole episodes, so that what is copied cannot be known by heart.

    Args:
        values: what is renamed wherever it stands; a value counts where no letter or digit touches it ("_" may).
        own: words that are not; with `config.auto` whatever else targets copy from what is read is renamed as well.
    """

    def __init__(self, config: RenameConfig, values: Sequence[str], own: Sequence[str] = ()) -> None:
        self.config, self.own = config, frozenset(own)
        self._find = _finder(values)

    def __call__(self, episode: Episode, rng: random.Random) -> Episode:
        """The episode renamed with the configured probability; relation names are never touched."""
        if rng.random() >= self.config.probability:
            return episode
        find = _finder(copied_spans(episode, self.own)) if self.config.auto else self._find
        return episode if find is None else _renamed(episode, find, rng)


def _finder(values: Sequence[str]) -> regex.Pattern[str] | None:
    """Finds values as whole words; in scripts without spaces anywhere."""
    if not values:
        return None
    ordered = sorted(values, key=lambda v: -len(v))
    whole = "|".join(re.escape(v) for v in ordered if not is_unspaced(v))
    inside = "|".join(re.escape(v) for v in ordered if is_unspaced(v))
    parts = ([rf"(?<![^\W_])(?:{whole})(?![^\W_])"] if whole else []) + ([inside] if inside else [])
    return regex.compile("|".join(parts))


def _renamed(episode: Episode, find: regex.Pattern[str], rng: random.Random) -> Episode:
    names: dict[str, str] = {}

    def new_name(match: regex.Match[str]) -> str:
        old = match.group()
        if old not in names:
            names[old] = next(n for n in iter(lambda: invent(old, rng), None) if n not in names.values())
        return names[old]

    def rename(text: str) -> str:
        return str(find.sub(new_name, text))

    entries = []
    for entry in episode.entries:
        triple = parse_triple(entry.text) if entry.kind == "fact" else None
        text = render_triple(rename(triple[0]), triple[1], rename(triple[2])) if triple else rename(entry.text)
        entries.append(replace(entry, text=text))
    examples = [
        replace(x, input=rename(x.input), target=rename(x.target), references=tuple(map(rename, x.references)))
        for x in episode.examples
    ]
    return replace(episode, entries=tuple(entries), examples=tuple(examples))
