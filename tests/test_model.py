"""The fast model against the naive one, and the laws that batching must keep."""

from dataclasses import replace

import pytest
import torch
from conftest import make_episode, tiny_model
from naive import Naive

from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import encode
from memgpt_cli.model.attention import SharedRead
from memgpt_cli.model.inputs import shift
from memgpt_cli.model.pointer import Mass
from memgpt_cli.schema import ModelConfig, ReadConfig

VARIANTS = {
    "rope with pointer": {},
    "relative positions, no pointer": {"position": "relative", "copy": False},
    "T5's conventions": {"position": "relative", "scale_embeddings": False, "scale_logits": True, "scale_attention": False},
    "words in common": {"memory": ReadConfig(top_k=3, age_buckets=6, max_time=16, words=True, vector=True)},
    "a vector of what is read": {"memory": ReadConfig(top_k=3, age_buckets=6, max_time=16, vector=True)},
    "a convolution": {"convolution": True},
    "queries and keys normalised": {"qk_norm": True},
    "untied, top-2 of the entries": {"tie_embeddings": False, "memory": ReadConfig(top_k=2, age_buckets=6, max_time=16)},
}


def rows_of(episodes, tokenizer):
    return [encode(e, tokenizer) for e in episodes]


def fast_logprobs(model, rows):
    """{(episode, example): [T, V]} of real target places."""
    batch = collate(rows)
    context = model.read(batch)
    out = model.log_probs(model.decode(shift(batch.targets), context), context)
    found = {}
    for g, row in enumerate(rows):
        for e, target in enumerate(row.target_ids):
            found[row.id, e] = out[g, e, : len(target) + 1]
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_fast_model_agrees_with_the_naive_one(name, tokenizer):
    model = tiny_model(len(tokenizer), **VARIANTS[name])
    naive = Naive(model)
    episodes = [make_episode(n, entries=4 + n, examples=3) for n in range(2)]
    found = fast_logprobs(model, rows_of(episodes, tokenizer))
    for episode in episodes:
        for e, example in enumerate(episode.examples):
            said = [0, *tokenizer.encode(example.target)]
            expected = naive.log_probs(episode, e, said, tokenizer)
            torch.testing.assert_close(found[episode.id, e].exp(), expected.exp(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_agree_with_the_naive_one(name, tokenizer):
    model = tiny_model(len(tokenizer), **VARIANTS[name])
    episodes = [make_episode(3, entries=5, examples=3), make_episode(4, entries=2, examples=2)]
    batch = collate(rows_of(episodes, tokenizer))
    scored = model.target_logprobs(batch, model.read(batch))
    (scored.logp * scored.real).sum().backward()
    fast = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    naive, total = Naive(model), torch.zeros(())
    for episode in episodes:
        for e, example in enumerate(episode.examples):
            ids = [*tokenizer.encode(example.target), 1]
            total = total + naive.log_probs(episode, e, [0, *ids[:-1]], tokenizer)[range(len(ids)), ids].sum()
    total.backward()
    for n, p in model.named_parameters():
        if p.grad is not None:
            scale = p.grad.abs().max().clamp(min=1.0)
            torch.testing.assert_close(fast[n] / scale, p.grad / scale, atol=1e-5, rtol=1e-4, msg=lambda m, n=n: f"{n}: {m}")
    assert fast["retriever.query.weight"].abs().sum() > 0, "the task loss must train retrieval"


def test_batching_together_and_order_change_nothing(tokenizer):
    model = tiny_model(len(tokenizer))
    episodes = [make_episode(n, entries=n, examples=1 + n % 4) for n in range(6)]
    together = fast_logprobs(model, rows_of(episodes, tokenizer))
    turned_round = fast_logprobs(model, rows_of(episodes[::-1], tokenizer))
    for episode in episodes:
        alone = fast_logprobs(model, rows_of([episode], tokenizer))
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(turned_round[key], value, atol=2e-5, rtol=1e-5)


def test_split_episodes_give_the_same_answers(tokenizer):
    model, row = tiny_model(len(tokenizer)), rows_of([make_episode(2, entries=6, examples=4)], tokenizer)[0]
    whole = fast_logprobs(model, [row])
    batch = collate([row], [(2, 4)])
    context = model.read(batch)
    out = model.log_probs(model.decode(shift(batch.targets), context), context)
    for k in (2, 3):
        value = whole[row.id, k]
        torch.testing.assert_close(out[0, k - 2, : len(value)], value, atol=2e-5, rtol=1e-5)


def test_future_entries_are_invisible(tokenizer):
    model, episode = tiny_model(len(tokenizer)), make_episode(1, entries=6, examples=3)
    row = rows_of([episode], tokenizer)[0]
    changed = replace(row, entry_ids=[*row.entry_ids[:2], *([9, 8, 7] for _ in range(4))])
    before, after = fast_logprobs(model, [row]), fast_logprobs(model, [changed])
    assert episode.examples[1].sees == 2
    torch.testing.assert_close(before[row.id, 1], after[row.id, 1])
    assert not torch.allclose(before[row.id, 2], after[row.id, 2])


def test_what_the_oracle_does_not_allow_is_not_read(tokenizer):
    """Other words in the entries that may not be read change nothing; in those that may, they do."""
    model, episode = tiny_model(len(tokenizer)), make_episode(3, entries=6, examples=1)
    episode = replace(episode, examples=(replace(episode.examples[0], sees=6),))

    def scored(changed=None):
        entries = [replace(e, text="ships sing at night") if n == changed else e for n, e in enumerate(episode.entries)]
        batch = collate([encode(replace(episode, entries=tuple(entries)), tokenizer)])
        only = torch.zeros(1, 1, 6, dtype=torch.bool)
        only[0, 0, [1, 4]] = True
        return model.target_logprobs(batch, model.read(batch, only=only)).logp

    before = scored()
    for n in range(6):
        assert torch.allclose(before, scored(n), atol=1e-6) == (n not in (1, 4)), n


def test_a_text_that_occurs_often_is_encoded_once(tokenizer):
    episode = make_episode(1, entries=4, examples=2)
    one, many = (collate(rows_of([episode] * k, tokenizer)) for k in (1, 5))
    assert sum(len(t) for t in one.texts) == sum(len(t) for t in many.texts)


def test_probabilities_sum_to_one(tokenizer):
    for value in fast_logprobs(tiny_model(len(tokenizer)), rows_of([make_episode(n) for n in range(3)], tokenizer)).values():
        torch.testing.assert_close(value.exp().sum(-1), torch.ones(len(value)), atol=1e-4, rtol=0)


def test_plain_call_needs_no_memory(tokenizer):
    model = tiny_model(len(tokenizer))
    inputs = torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]])
    targets = torch.tensor([[9, 4, 1], [3, 1, 0]])
    both = model(inputs, targets)
    assert both.shape == (2, 3, len(tokenizer))
    torch.testing.assert_close(both[1, :2], model(inputs[1:, :2], targets[1:, :2])[0], atol=1e-5, rtol=1e-5)


def test_shared_read_gradients_in_double_precision():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, dtype=torch.double, requires_grad=True) for n in (3, 5, 5))
    bias = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: SharedRead.apply(*a)[:2], (q, k, v, bias))
    out, normaliser, attention = SharedRead.apply(q, k, v, bias)
    logits = q @ k.transpose(1, 2) + bias
    torch.testing.assert_close(out, logits.softmax(-1) @ v)
    torch.testing.assert_close(normaliser, logits.logsumexp(-1))
    torch.testing.assert_close(attention, logits.softmax(-1))


def test_pointer_mass_gradients_in_double_precision():
    torch.manual_seed(0)
    logits = torch.randn(3, 7, dtype=torch.double, requires_grad=True)
    holds = torch.rand(3, 7) > 0.5
    assert torch.autograd.gradcheck(lambda x: Mass.apply(x, holds)[0], (logits,))
    torch.testing.assert_close(Mass.apply(logits, holds)[0], (logits.softmax(-1) * holds).sum(-1))


def test_a_wrong_shape_is_refused_by_name():
    with pytest.raises(Exception, match="model.d_model is 0, expected at least 1"):
        ModelConfig(d_model=0)
    with pytest.raises(Exception, match=r"model.position is 'sine', expected one of rope, relative"):
        ModelConfig(position="sine")


def test_vectors_are_trained_to_choose_alone(tokenizer):
    """What evidence asks of the vectors by themselves: a scale of their own, and no weight of words in it."""
    model = tiny_model(len(tokenizer), memory=ReadConfig(words=True)).train()
    batch = collate([encode(make_episode(1), tokenizer)])
    near = model.read(batch).choice.near
    assert near is not None
    near[1][..., 0].sum().backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0}
    assert reached >= {"retriever.query.weight", "retriever.key.weight", "retriever.words.scale", "embedding.weight"}
    assert not reached & {"retriever.words.input", "retriever.words.entry", "retriever.scale"}
    assert model.eval().read(batch).choice.near is None
