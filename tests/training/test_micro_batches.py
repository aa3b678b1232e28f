"""Division of rows into micro-batches: sizes, and equal scores and gradients for each division."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from rlalign.algorithms import algorithm
from rlalign.config.schema import LearnerConfig
from rlalign.policies.base import TokenScores
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.tokenizers import CharTokenizer
from rlalign.training import micro_batches
from rlalign.training.learner import Learner
from rlalign.training.micro_batches import MicroBatcher, cut, even_cut
from rlalign.types import Sampling

V = 23


class Ids:
    vocab_size = V
    eos_id = pad_id = 1


@pytest.mark.parametrize(
    ("costs", "ends", "limit", "sizes"),
    [
        ([2, 2, 2, 2], "0101", 8, [4]),
        ([2, 2, 2, 2], "0101", 7, [2, 2]),  # three would fit, but would divide the second group
        ([2, 2, 2, 2], "0001", 5, [2, 2]),  # a group above the limit is divided at the limit
        ([2, 2, 2, 2, 2], "00011", 6, [3, 2]),
        ([9, 1, 1], "111", 4, [1, 2]),  # a row above the limit is a part of its own
        ([1, 1, 9], "111", 4, [2, 1]),
        ([3], "1", 1, [1]),
    ],
)
def test_parts_end_at_groups_and_stay_below_the_limit(costs, ends, limit, sizes):
    assert cut(costs, [e == "1" for e in ends], limit, costs) == sizes


def test_the_first_row_of_each_part_includes_the_cost_of_its_prompt():
    assert cut([5, 2, 2, 2], [False, False, False, True], 7, [5, 5, 5, 5]) == [2, 2]
    assert cut([5, 2, 2, 2], [False, False, False, True], 6, [5, 5, 5, 5]) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("costs", "ends", "limit", "sizes"),
    [
        ([2] * 8, "01010101", 12, [4, 4]),  # not 6 and 2
        (
            [3] * 4 + [1] * 4,
            "01010101",
            10,
            [2, 6],
        ),  # costs 6 and 10; `cut` gives 10 and 6; 8 and 8 would divide a group
        ([1] * 16, "0000000000010001", 13, [12, 4]),  # 8 and 8 would divide the first group
        ([9, 1, 1], "111", 4, [1, 2]),
        ([2, 2, 2, 2], "0101", 8, [4]),
    ],
)
def test_even_parts_have_similar_costs(costs, ends, limit, sizes):
    assert even_cut(costs, [e == "1" for e in ends], limit, costs) == sizes


def rows():
    """Return tokens, lengths and mask of groups of 3, 2 and 1 rows.

    The first two prompts share a prefix, and the padding id is a valid token id.
    """
    prompts = [[3, 4, 5]] * 3 + [[3, 4]] * 2 + [[8]]
    completions = [[5, 6], [7], [5, 5, 5], [5, 6], [9], [2, 2]]
    flat = [p + c for p, c in zip(prompts, completions, strict=True)]
    tokens, mask = torch.full((6, 8), 1), torch.zeros(6, 8, dtype=torch.bool)
    for i, (row, prompt) in enumerate(zip(flat, prompts, strict=True)):
        tokens[i, : len(row)], mask[i, len(prompt) : len(row)] = torch.tensor(row), True
    return tokens, torch.tensor([len(row) for row in flat]), mask


def policy_of():
    """Return a causal policy of one small Qwen3 layer in float32."""
    torch.manual_seed(3)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    lm = Qwen3ForCausalLM(Qwen3Config(vocab_size=V, hidden_size=16, intermediate_size=24, **shape))
    return CausalPolicy(lm, Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0), dtype="float32"))


@pytest.mark.parametrize("micro_batch", [0, 1, 3, 4])
@pytest.mark.parametrize("tokens_at_once", [1, 9, 15, 4096])
def test_each_division_gives_the_same_scores_and_gradient(micro_batch, tokens_at_once, monkeypatch):
    monkeypatch.setattr(micro_batches, "_CPU_TOKENS", tokens_at_once)
    policy, (tokens, lengths, mask) = policy_of(), rows()
    batcher = MicroBatcher(policy, micro_batch)
    order = torch.tensor([5, 0, 3, 1, 4, 2])

    def gradient(parts):
        policy.zero_grad(set_to_none=True)
        for p in parts:
            policy.score(tokens[p], lengths[p], mask[p], Sampling()).logprobs.sum().backward()
        return [p.grad.clone() for p in policy.trainable().values()]

    parts = batcher.split(order, tokens, lengths, mask)
    assert sorted(torch.cat(list(parts)).tolist()) == list(range(6))
    for actual, expected in zip(gradient(parts), gradient([order]), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        undivided = policy.score(tokens, lengths, mask, Sampling()).logprobs
        score = partial(policy.score, sampling=Sampling())
        torch.testing.assert_close(batcher.score_all(score, tokens, lengths, mask).logprobs, undivided)


def test_scores_come_back_in_the_order_of_the_rows():
    """Rows of a policy that pads are sorted by length. Of lengths 3, 1, 2 the order is not its own inverse."""
    batcher = MicroBatcher(SimpleNamespace(device=torch.device("cpu")), 2)
    lengths = torch.tensor([3, 1, 2])
    mask = torch.arange(3) < lengths[:, None]

    def score(tokens, lengths, mask):
        return TokenScores(lengths[:, None].expand(-1, 3).float())

    scores = batcher.score_all(score, torch.ones(3, 3, dtype=torch.int64), lengths, mask)
    assert scores.logprobs[:, 0].tolist() == [3, 1, 2]


def test_groups_that_fit_are_not_divided_and_the_limit_counts_tokens(monkeypatch):
    policy, (tokens, lengths, mask) = policy_of(), rows()
    order = torch.tensor([5, 0, 3, 1, 4, 2])

    def parts(limit, micro_batch=0):
        monkeypatch.setattr(micro_batches, "_CPU_TOKENS", limit)
        divided = MicroBatcher(policy, micro_batch).split(order, tokens, lengths, mask)
        return [p.tolist() for p in divided]

    assert lengths.tolist() == [5, 4, 6, 4, 3, 3]
    assert parts(17) == [[0, 1, 2, 3, 4, 5]]  # 3 + 2 + 1 + 3, 2 + 2 + 1, 1 + 2: each prompt once
    assert parts(16) == [[0, 1, 2], [3, 4, 5]]  # rows 0 to 3 have 13 tokens, and would divide a group
    assert parts(8) == [[0, 1], [2], [3, 4, 5]]
    assert parts(17, micro_batch=4) == [[0, 1, 2], [3, 4, 5]]
    policy.lm.set_attn_implementation("sdpa")  # scores padded rows, which are sorted by length
    assert parts(14) == [[5, 4, 3, 1], [0, 2]]


def test_parts_of_several_rows_cost_at_most_the_limit():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        costs = torch.randint(1, 9, (20,), generator=generator).tolist()
        ends = [*(torch.rand(19, generator=generator) < 0.3).tolist(), True]
        firsts = [c + 6 for c in costs]
        for limit in (4, 16, 40):
            start = 0
            for size in even_cut(costs, ends, limit, firsts):
                assert size == 1 or firsts[start] + sum(costs[start + 1 : start + size]) <= limit
                start += size
            assert start == len(costs)


def test_rows_without_an_action_cost_their_length(monkeypatch):
    policy, (tokens, lengths, mask) = policy_of(), rows()
    monkeypatch.setattr(micro_batches, "_CPU_TOKENS", 11)
    parts = MicroBatcher(policy, 0).split(torch.arange(6), tokens, lengths, torch.zeros_like(mask))
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4, 5]]  # 5 + 4, 6 + 4, 3 + 3


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_activation_memory_limits_the_size_of_a_part(family, monkeypatch):
    policy, (tokens, lengths, mask) = policy_of(), rows()
    # inputs and outputs of q, k, v, o, gate, up, down and the head, times 2
    floats = 2 * ((16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 24) + (16 + V))
    if family == "gpt2":  # q, k, v in one layer, then o, up, down and the head
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=32))
        policy = CausalPolicy(lm, Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0), dtype="float32"))
        floats = 2 * ((16 + 48) + (16 + 16) + 2 * (16 + 64) + (16 + V))

    def parts(count):
        monkeypatch.setattr(micro_batches, "_CPU_BYTES", count)
        return len(MicroBatcher(policy, 0).split(torch.arange(6), tokens, lengths, mask))

    assert parts(4 * floats * 17) == 1
    assert parts(4 * floats * 17 - 1) == 2
    assert parts(1) == 6
    with torch.no_grad():  # no activations are saved for a backward pass
        assert parts(1) == 1


@pytest.mark.parametrize("micro_batch", [0, 1, 2, 3, 5])
def test_minibatches_and_micro_batches_never_divide_a_pair(micro_batch):
    policy = make_policy("tabular", tokenizer=CharTokenizer("ab"))
    learner = Learner(
        policy, algorithm("dpo").objective, LearnerConfig(epochs=2, minibatches=3, micro_batch=micro_batch),
        sampling=Sampling(), total_updates=6, generator=torch.Generator().manual_seed(0), max_length=8,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 9, (12,), generator=generator)
    mask = torch.arange(8) < lengths[:, None]
    plan = learner._plan(12)
    assert len(plan) == 6
    assert sorted(torch.cat(plan[:3]).tolist()) == sorted(torch.cat(plan[3:]).tolist()) == list(range(12))
    for minibatch in plan:
        parts = learner.micro_batcher.split(minibatch, torch.zeros(12, 8, dtype=torch.long), lengths, mask)
        assert sorted(torch.cat(list(parts)).tolist()) == sorted(minibatch.tolist())
        for part in parts:
            assert (part.view(-1, 2) // 2).diff(dim=1).abs().sum() == 0  # both rows of each pair, as neighbors
            assert len(part) <= max(2, micro_batch or 12)
    learner.micro_batcher.micro_batch = 2
    assert not learner.micro_batcher.halve(12)  # a pair is the smallest part
