"""Metrics against hand-computed values and against the libraries they stand on."""

import pytest
import sacrebleu

from memgpt_cli.errors import UsageError
from memgpt_cli.evaluation.metrics import bleu, check_metrics, chrf, distinct, exact, f1, interval, rouge, token_f1, words


def value(scores, name):
    return next(s.value for s in scores if s.name == name)


def test_chinese_rouge_by_hand():
    # 今天天气很好 (6) and 今天天气不好 (6) share 今 天 天 气 好; longest common subsequence 5; bigrams 今天 天天 天气 of 5
    found = rouge(["今天天气很好"], [["今天天气不好"]], resamples=0)
    assert value(found, "rouge1") == pytest.approx(100 * 5 / 6)
    assert value(found, "rougeL") == pytest.approx(100 * 5 / 6)
    assert value(found, "rouge2") == pytest.approx(100 * 3 / 5)


def test_english_rouge_equals_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    said, wanted = "the cat sat on the mat", "a cat was sitting on the mat"
    theirs = RougeScorer(["rouge1", "rougeL"]).score(wanted, said)
    ours = rouge([said], [[wanted]], resamples=0)
    assert value(ours, "rouge1") == pytest.approx(100 * theirs["rouge1"].fmeasure)
    assert value(ours, "rougeL") == pytest.approx(100 * theirs["rougeL"].fmeasure)


def test_of_several_references_the_best_counts():
    assert value(rouge(["a b"], [["x y", "a b"]], resamples=0), "rouge1") == 100


def test_bleu_and_chrf_are_sacrebleu():
    said, wanted = ["the cat sat on the mat .", "hello there my friend"], [["the cat is on the mat ."], ["hello my friend"]]
    assert bleu(said, wanted, 0)[0].value == pytest.approx(sacrebleu.corpus_bleu(said, [[w[0] for w in wanted]]).score)
    assert chrf(said, wanted, 0)[0].value == pytest.approx(sacrebleu.corpus_chrf(said, [[w[0] for w in wanted]]).score)
    assert "tok:13a" in bleu(said, wanted, 0)[0].signature


def test_chinese_bleu_is_counted_by_character():
    said, wanted = ["我今天很高兴见到你"], [["我今天很高兴认识你"]]
    found = bleu(said, wanted, 0)[0]
    assert "tok:zh" in found.signature
    assert found.value == pytest.approx(sacrebleu.corpus_bleu(said, [["我今天很高兴认识你"]], tokenize="zh").score)
    assert 0 < found.value < 100
    # precisions 7/9, 5/8, 4/7, 3/6 and equal lengths
    assert found.value == pytest.approx(100 * (7 / 9 * 5 / 8 * 4 / 7 * 3 / 6) ** 0.25, rel=1e-4)


def test_exact_ignores_white_space_at_the_ends_alone():
    found = exact([" yes ", "Yes", "y es"], [["yes"], ["yes"], ["yes"]], 0)[0]
    assert found.value == pytest.approx(100 / 3)


def test_f1_is_squads():
    assert token_f1("The Cat!", "a cat") == 1.0
    assert token_f1("big red cat", "red cat here") == pytest.approx(2 / 3)
    assert token_f1("北京市", "北京") == pytest.approx(2 * 2 / 5)
    assert token_f1("", "cat") == 0
    assert f1(["cat"], [["dog", "cat"]], 0)[0].value == 100


def test_distinct_by_hand():
    found = distinct(["a b a b", "a c"])
    assert value(found, "distinct-1") == pytest.approx(100 * 3 / 6)
    assert value(found, "distinct-2") == pytest.approx(100 * 3 / 4)


def test_words_keep_every_chinese_character():
    assert words("I like 北京烤鸭, really!") == ["i", "like", "北", "京", "烤", "鸭", "really"]


def test_chinese_beside_digits_and_latin_letters_is_still_cut_by_character():
    assert words("2019年上映 iPhone手机好") == ["2019", "年", "上", "映", "iphone", "手", "机", "好"]
    assert token_f1("1998年12月上映", "1998年12月5日上映") == pytest.approx(2 * 6 / 14)


def test_intervals_hold_the_mean_and_narrow_with_size():
    low, high = interval([0, 100] * 50, 500)
    assert low < 50 < high
    low2, high2 = interval([0, 100] * 800, 500)
    assert high2 - low2 < high - low
    assert interval([1.0], 100) == (None, None)


def test_signatures_name_version_and_settings():
    for score in rouge(["a"], [["a"]], 10) + bleu(["a b c d"], [["a b c d"]], 10) + exact(["a"], [["a"]], 10):
        assert "memgpt:" in score.signature
        assert "bootstrap:10" in score.signature


def test_an_unknown_metric_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="'rogue' is not a metric. Did you mean 'rouge'"):
        check_metrics(["rogue"])
