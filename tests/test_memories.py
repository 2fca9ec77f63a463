"""The central proof by hand-made cases: what each memory shows, what the oracle may read, where evidence ranks."""

import torch

from memgpt_cli.data.dataset import EncodedEpisode
from memgpt_cli.evaluation.memories import exchange, oracle, ranks, with_memory
from memgpt_cli.evaluation.metrics import mean_score


def episode(entries, sees, evidence, name="e"):
    count = len(sees)
    return EncodedEpisode(
        entry_ids=[[n] for n in entries], kinds=["fact"] * len(entries), input_ids=[[1]] * count, target_ids=[[2]] * count, sees=sees,
        evidence=evidence, id=name, entries=[f"{name}{n}" for n in entries], entry_meta=[""] * len(entries),
    )  # fmt: skip


OWN, OTHER = episode([5, 6, 7], [1, 3], [[0], [1, 2]]), episode([8, 9], [2], [[0]], "o")


def test_each_memory_shows_what_it_says():
    (learned,) = with_memory("learned", [OWN], [])
    assert learned is OWN
    (same,) = with_memory("oracle", [OWN], [])
    assert same is OWN, "the oracle restricts what is read, not what is there"
    (empty,) = with_memory("empty", [OWN], [])
    assert (empty.sees, empty.evidence) == ([0, 0], [[], []])
    assert OWN.sees == [1, 3], "what was given is not changed"
    (shuffled,) = with_memory("shuffled", [OWN], [OTHER])
    assert shuffled.entry_ids == [[8], [9]]
    assert shuffled.entries == ["o8", "o9"]
    assert shuffled.sees == [1, 2], "as many as it sees of its own, or as there are"
    assert shuffled.evidence == [[], []], "another episode's entries are evidence of nothing"
    assert shuffled.id == OWN.id
    assert shuffled.target_ids == OWN.target_ids


def test_exchange_with_an_episode_without_entries_is_no_memory():
    alone = exchange(OWN, episode([], [0], [[]]))
    assert (alone.sees, alone.entry_ids) == ([0, 0], [])


class Given:
    """The part of a batch that the oracle reads."""

    def __init__(self, sees, entries, evidence):
        self.sees, self.entry_kind = torch.tensor(sees), torch.zeros(len(sees), entries)
        self.evidence = torch.tensor(evidence, dtype=torch.long).view(-1, 3)


def test_the_oracle_reads_the_evidence_and_everything_where_none_is_named():
    only = oracle(Given([[3, 3], [2, -1]], 3, [(0, 0, 1), (0, 0, 2), (1, 0, 0)]))
    assert only[0, 0].tolist() == [False, True, True]
    assert only[0, 1].tolist() == [True, True, True], "no evidence: nothing to restrict"
    assert only[1, 0].tolist() == [True, False, False]


def test_ranks_are_of_the_best_evidence_among_what_is_seen():
    scores = torch.tensor([[[5.0, 1.0, 3.0, 9.0], [5.0, 1.0, 3.0, 9.0]]])
    seen = torch.tensor([[3, 4]])
    # example 0 sees three: entry 2 is second, entry 1 is third; the fourth, which would be first, it does not see
    assert list(ranks(scores, seen, torch.tensor([(0, 0, 1), (0, 0, 2)]))) == [2]
    assert list(ranks(scores, seen, torch.tensor([(0, 0, 1)]))) == [3]
    assert list(ranks(scores, seen, torch.tensor([(0, 1, 0)]))) == [2]
    assert list(ranks(scores, seen, torch.tensor([(0, 0, 0), (0, 1, 1)]))) == [1, 4]
    assert list(ranks(scores, seen, torch.zeros(0, 3, dtype=torch.long))) == []


def test_equal_scores_do_not_push_evidence_down():
    scores = torch.tensor([[[2.0, 2.0, 2.0]]])
    assert list(ranks(scores, torch.tensor([[3]]), torch.tensor([(0, 0, 2)]))) == [1]


def test_recall_and_mrr_by_hand():
    found = [1, 3, 9]
    within = {k: mean_score("r", [100.0 * (rank <= k) for rank in found], "", 0).value for k in (1, 8)}
    assert within == {1: 100 / 3, 8: 200 / 3}
    assert abs(mean_score("mrr", [100.0 / rank for rank in found], "", 0).value - 100 * (1 + 1 / 3 + 1 / 9) / 3) < 1e-9
