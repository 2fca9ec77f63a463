"""Metrics. A score is never a bare number: it carries its signature, its confidence interval and its sample size.

Chinese, Japanese and Korean text is cut into characters (other scripts into words), because the stock tokenizers of
ROUGE and F1 drop those characters or take a sentence for one word.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memgpt_cli import __version__, plugins
from memgpt_cli.scripts import CJK, CJK_LETTERS

References = Sequence[Sequence[str]]
_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_IS_CJK = re.compile(f"[{CJK_LETTERS}]")


@dataclass(frozen=True)
class Score:
    """A value in percent (or as named), what made it, its 95 % bootstrap interval, and over how many items."""

    name: str
    value: float
    signature: str
    low: float | None = None
    high: float | None = None
    n: int = 0
    more: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if self.low is not None else ""
        return f"{self.name} {self.value:.2f}{interval}"


def words(text: str) -> list[str]:
    """Lower-cased words; every CJK character (and full-width sign) is a word of its own."""
    return _WORD.findall(text.lower())


def is_cjk(texts: Sequence[str]) -> bool:
    """Whether most letters of the texts are Chinese, Japanese or Korean."""
    joined = "".join(texts[:500])
    letters = sum(c.isalpha() for c in joined)
    return bool(letters) and len(_IS_CJK.findall(joined)) > letters / 2


def interval(values: Sequence[float], resamples: int, seed: int = 1) -> tuple[float, float] | tuple[None, None]:
    """95 % bootstrap interval of the mean."""
    if resamples <= 0 or len(values) < 2:
        return None, None
    array, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float], resamples: int) -> tuple[float, float] | tuple[None, None]:
    """95 % bootstrap interval of sum(parts) / sum(wholes) over items."""
    if resamples <= 0 or len(parts) < 2:
        return None, None
    top, bottom, rng = np.asarray(parts), np.asarray(wholes), np.random.default_rng(1)
    draws = (rng.integers(0, len(top), len(top)) for _ in range(resamples))
    low, high = np.percentile([top[d].sum() / max(1.0, bottom[d].sum()) for d in draws], [2.5, 97.5])
    return float(low), float(high)


def mean_score(name: str, values: Sequence[float], signature: str, resamples: int, **more: float) -> Score:
    low, high = interval(values, resamples)
    value = float(np.mean(values)) if len(values) else 0.0
    return Score(name, value, f"{signature}|bootstrap:{resamples}|memgpt:{__version__}", low, high, len(values), dict(more))


def exact(predictions: Sequence[str], references: References, resamples: int = 1000) -> list[Score]:
    """Share of predictions equal to a reference, white space at the ends aside."""
    right = [100.0 * any(p.strip() == r.strip() for r in rs) for p, rs in zip(predictions, references, strict=True)]
    return [mean_score("exact", right, "exact|case:mixed|strip:ends|refs:any", resamples)]


def _normalise(text: str) -> list[str]:
    """SQuAD's normalisation (Rajpurkar et al., 2016): lower case, no punctuation, no articles; CJK by character."""
    kept = "".join(" " if c in string.punctuation else c for c in text.lower())
    return [w for w in words(kept) if w not in ("a", "an", "the")]


def token_f1(prediction: str, reference: str) -> float:
    said, wanted = Counter(_normalise(prediction)), Counter(_normalise(reference))
    if not said or not wanted:
        return float(said == wanted)
    common = sum((said & wanted).values())
    return 2 * common / (sum(said.values()) + sum(wanted.values()))


def f1(predictions: Sequence[str], references: References, resamples: int = 1000) -> list[Score]:
    values = [100.0 * max(token_f1(p, r) for r in rs) for p, rs in zip(predictions, references, strict=True)]
    return [mean_score("f1", values, "f1|norm:squad|tok:word+cjkchar|refs:max", resamples)]


class _RougeTokens:
    def tokenize(self, text: str) -> list[str]:
        return words(text)


def rouge(predictions: Sequence[str], references: References, resamples: int = 1000) -> list[Score]:
    """ROUGE-1, -2, -L and -Lsum F1 of rouge-score (Lin, 2004); of several references the best counts."""
    import importlib.metadata

    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(kinds, tokenizer=_RougeTokens())
    rows = [scorer.score_multi(list(rs), p) for p, rs in zip(predictions, references, strict=True)]
    version = importlib.metadata.version("rouge-score")
    signature = f"rouge_score:{version}|tok:word+cjkchar|stem:no|case:lc|f1|refs:max"
    return [mean_score(kind, [100 * row[kind].fmeasure for row in rows], signature, resamples) for kind in kinds]


def _sacre(kind: str, predictions: Sequence[str], references: References, resamples: int, **options: Any) -> list[Score]:
    from sacrebleu.metrics import BLEU, CHRF

    metric: Any = (BLEU if kind == "bleu" else CHRF)(**options)
    most = max(map(len, references))
    streams = [[rs[k] if k < len(rs) else None for rs in references] for k in range(most)]
    plain = metric.corpus_score(list(predictions), streams)
    low = high = None
    if resamples > 0 and len(predictions) > 1:
        stats = np.asarray(metric._extract_corpus_statistics(list(predictions), streams), dtype=np.float64)
        rng = np.random.default_rng(1)
        draws = [
            metric._compute_score_from_stats(list(stats[rng.integers(0, len(stats), len(stats))].sum(0))).score
            for _ in range(resamples)
        ]
        low, high = (float(v) for v in np.percentile(draws, [2.5, 97.5]))
    signature = f"{metric.get_signature()}|bootstrap:{resamples}|memgpt:{__version__}"
    return [Score(kind, plain.score, signature, low, high, len(predictions))]


def bleu(predictions: Sequence[str], references: References, resamples: int = 1000, tokenize: str = "") -> list[Score]:
    """sacreBLEU (Post, 2018): 13a, zh for Chinese; `none` for text that is tokenised already."""
    tokenize = tokenize or ("zh" if is_cjk([rs[0] for rs in references]) else "13a")
    extra = {"force": True} if tokenize == "none" else {}
    return _sacre("bleu", predictions, references, resamples, tokenize=tokenize, **extra)


def chrf(predictions: Sequence[str], references: References, resamples: int = 1000) -> list[Score]:
    return _sacre("chrf", predictions, references, resamples)


def distinct(predictions: Sequence[str], references: References = (), resamples: int = 1000) -> list[Score]:
    """Distinct-1 and -2 (Li et al., NAACL 2016): different n-grams among all n-grams of the outputs, in percent."""
    scores = []
    for n in (1, 2):
        grams = [[tuple(ws[i : i + n]) for i in range(len(ws) - n + 1)] for ws in map(words, predictions)]

        def share(rows: Sequence[list[tuple[str, ...]]]) -> float:
            total = sum(map(len, rows))
            return 100 * len({g for row in rows for g in row}) / total if total else 0.0

        # no bootstrap: drawing with replacement repeats outputs, which biases the share of different n-grams downwards
        signature = f"distinct-{n}|tok:word+cjkchar|corpus|memgpt:{__version__}"
        scores.append(Score(f"distinct-{n}", share(grams), signature, n=len(predictions)))
    return scores


MODEL_METRICS = ("perplexity", "recall")  # from the model, not from what it wrote
Metric = Callable[[Sequence[str], References, int], list[Score]]
"""Predictions, references and the resamples of an interval -> scores."""


def find_metric(name: str) -> Metric:
    """The metric of this name; raises UsageError with the nearest one."""
    found: Metric = plugins.load(plugins.METRICS, name, f"'{name}' is not a metric")
    return found


def check_metrics(names: Sequence[str]) -> None:
    """Raises UsageError for a name that is no metric."""
    for name in names:
        if name not in MODEL_METRICS:
            find_metric(name)
