"""Generation with caches against the naive loop, and the sampling functions against their definitions."""

import math

import pytest
import torch
from conftest import make_episode, tiny_model
from naive import Naive

from memgpt_cli.config import GenerateConfig
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import encode
from memgpt_cli.errors import ConfigError
from memgpt_cli.inference.decode import generate
from memgpt_cli.inference.postprocess import StreamDecoder, drop_repeats, tidy_spaces
from memgpt_cli.inference.sampling import choose, filter_top, forbid_ngrams, penalise_repetition
from memgpt_cli.schema import ReadConfig
from memgpt_cli.tokenizer import EOS


def batch_of(episodes, tokenizer):
    return collate([encode(e, tokenizer) for e in episodes])


@pytest.mark.parametrize(
    "changes",
    [{}, {"position": "relative", "copy": False}, {"memory": ReadConfig(age_buckets=6, max_time=16, vector=True, words=True)}],
)
def test_cached_greedy_equals_the_naive_loop(changes, tokenizer):
    model = tiny_model(len(tokenizer), seed=3, **changes)
    episodes = [make_episode(n, entries=3 + n, examples=2) for n in range(2)]
    made = generate(model, batch_of(episodes, tokenizer), GenerateConfig(max_tokens=8))
    naive = Naive(model)
    with torch.no_grad():
        for g, episode in enumerate(episodes):
            for e in range(len(episode.examples)):
                assert made.ids[g][e] == naive.greedy(episode, e, tokenizer, 8)


def naive_beams(model, episode, example, tokenizer, width, steps, penalty):
    """Beam search by recomputation: every continuation of every beam, best sums first."""
    naive, beams, ended = Naive(model), [(0.0, [0])], []
    for step in range(1, steps + 1):
        options = []
        for score, said in beams:
            logp = naive.log_probs(episode, example, said, tokenizer)[-1].tolist()
            options += [(score + p, [*said, t]) for t, p in enumerate(logp) if t != 0]
        options.sort(key=lambda o: -o[0])
        beams = []
        for rank, (score, said) in enumerate(options[: 2 * width]):
            if said[-1] == EOS:
                if rank < width:
                    ended.append((score / step**penalty, said[1:-1]))
            elif len(beams) < width:
                beams.append((score, said))
        ended = sorted(ended, key=lambda x: -x[0])[:width]
        if len(ended) >= width and ended[-1][0] >= options[0][0] / step**penalty:
            return ended[0][1]
    ended += [(score / steps**penalty, said[1:]) for score, said in beams]
    return max(ended, key=lambda x: x[0])[1]


@pytest.mark.parametrize("width", [2, 3])
def test_beam_search_equals_the_naive_one(width, tokenizer):
    model = tiny_model(len(tokenizer), seed=5)
    episodes = [make_episode(n, entries=3, examples=2) for n in range(2)]
    made = generate(model, batch_of(episodes, tokenizer), GenerateConfig(max_tokens=5, beams=width))
    with torch.no_grad():
        for g, episode in enumerate(episodes):
            for e in range(2):
                assert made.ids[g][e] == naive_beams(model, episode, e, tokenizer, width, 5, 1.0)


def test_batched_answers_equal_single_ones(tokenizer):
    model = tiny_model(len(tokenizer), seed=3)
    episodes = [make_episode(n, entries=n, examples=1 + n) for n in range(4)]
    together = generate(model, batch_of(episodes, tokenizer), GenerateConfig(max_tokens=12))
    for g, episode in enumerate(episodes):
        alone = generate(model, batch_of([episode], tokenizer), GenerateConfig(max_tokens=12))
        assert together.ids[g][: len(episode.examples)] == alone.ids[0]


def test_streaming_stops_when_told(tokenizer):
    model, seen = tiny_model(len(tokenizer), seed=3), []

    def on_token(token):
        seen.append(token)
        return len(seen) < 3

    generate(model, batch_of([make_episode(0)], tokenizer), GenerateConfig(max_tokens=20, min_tokens=20), on_token=on_token)
    assert len(seen) == 3


def test_sampling_is_reproducible_and_varies_with_the_seed(tokenizer):
    model, batch = tiny_model(len(tokenizer)), batch_of([make_episode(0)], tokenizer)
    made = [generate(model, batch, GenerateConfig(max_tokens=8, temperature=1.5, seed=s)).ids for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_reading_is_a_distribution(tokenizer):
    made = generate(tiny_model(len(tokenizer)), batch_of([make_episode(2, entries=6)], tokenizer), GenerateConfig(max_tokens=4))
    total = [float(found[0].entries.sum()) + found[0].null for found in made.best[0]]
    assert max(total) <= 1 + 1e-5
    assert total[0] == 0, "the first example sees nothing"
    assert total[2] > 0


def test_min_tokens_forbids_an_early_end(tokenizer):
    made = generate(
        tiny_model(len(tokenizer)), batch_of([make_episode(0)], tokenizer), GenerateConfig(max_tokens=6, min_tokens=6)
    )
    assert all(len(ids) == 6 for ids in made.ids[0])


def test_top_k_top_p_and_min_p_keep_what_their_papers_say():
    logp = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = lambda **options: (filter_top(logp, **{"top_k": 0, "top_p": 1.0, "min_p": 0.0, **options}) > -math.inf)[0].tolist()  # noqa: E731
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_p=0.8) == [True, True, False, False]
    assert kept(top_p=0.81) == [True, True, True, False]
    assert kept(top_p=0.01) == [True, False, False, False]
    assert kept(min_p=0.2) == [True, True, True, False]


def test_repetition_penalty_and_ngram_ban():
    logp, said = torch.tensor([[-1.0, -1.0, -1.0, -1.0]]), torch.tensor([[2, 3, 2]])
    assert penalise_repetition(logp, said, 2.0)[0].tolist() == [-1.0, -1.0, -2.0, -2.0]
    banned = forbid_ngrams(logp, said, 2)[0]
    assert banned[3] == -math.inf
    assert banned[2] == -1.0


def test_temperature_zero_is_greedy():
    logp = torch.tensor([[0.1, 0.7, 0.2]]).log()
    assert choose(logp, GenerateConfig(), torch.Generator()).tolist() == [1]


def test_beams_and_sampling_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        GenerateConfig(beams=2, temperature=1.0)


def test_postprocessing():
    assert drop_repeats("well, I see. I see. I see. fine") == "well, I see. fine"
    assert tidy_spaces("你 好 ， 世界 ! ok , yes") == "你好，世界! ok, yes"


def test_streamed_text_never_shows_half_a_character(tokenizer):
    text = "the 你好 😀 cats"
    stream = StreamDecoder(tokenizer)
    shown = [stream.add(i) for i in tokenizer.encode(text)]
    assert "".join(shown) + stream.rest() == text
    assert not any("\ufffd" in s for s in shown)
