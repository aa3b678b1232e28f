"""How rows are cut into micro-batches, and that no cut changes what comes out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.options import PolicyOptions
from rlalign.training import micro_batches as passes
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
        ([2, 2, 2, 2], "0101", 7, [2, 2]),  # three would fit, but cut the second group
        ([2, 2, 2, 2], "0001", 5, [2, 2]),  # a group that does not fit is cut where it has to be
        ([2, 2, 2, 2, 2], "00011", 6, [3, 2]),
        ([9, 1, 1], "111", 4, [1, 2]),  # a row above the limit goes alone
        ([1, 1, 9], "111", 4, [2, 1]),
        ([3], "1", 1, [1]),
    ],
)
def test_cuts(costs, ends, limit, sizes):
    assert cut(costs, [e == "1" for e in ends], limit, costs) == sizes


def test_the_first_row_of_a_part_costs_its_prompt_again():
    assert cut([5, 2, 2, 2], [False, False, False, True], 7, [5, 5, 5, 5]) == [2, 2]
    assert cut([5, 2, 2, 2], [False, False, False, True], 6, [5, 5, 5, 5]) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("costs", "ends", "limit", "sizes"),
    [
        ([2] * 8, "01010101", 12, [4, 4]),  # not 6 and 2
        ([3] * 4 + [1] * 4, "01010101", 10, [2, 6]),  # 6 and 10, where cut says 10 and 6 cannot be: a group ends there
        ([1] * 16, "0000000000010001", 13, [12, 4]),  # 8 and 8 would cut the first group
        ([9, 1, 1], "111", 4, [1, 2]),
        ([2, 2, 2, 2], "0101", 8, [4]),
    ],
)
def test_even_cuts(costs, ends, limit, sizes):
    assert even_cut(costs, [e == "1" for e in ends], limit, costs) == sizes


def rows():
    """Groups of 3, 2 and 1 rows; the first two prompts begin alike, and pads look like tokens."""
    prompts = [[3, 4, 5]] * 3 + [[3, 4]] * 2 + [[8]]
    said = [[5, 6], [7], [5, 5, 5], [5, 6], [9], [2, 2]]
    flat = [p + c for p, c in zip(prompts, said, strict=True)]
    tokens, mask = torch.full((6, 8), 1), torch.zeros(6, 8, dtype=torch.bool)
    for i, (row, prompt) in enumerate(zip(flat, prompts, strict=True)):
        tokens[i, : len(row)], mask[i, len(prompt) : len(row)] = torch.tensor(row), True
    return tokens, torch.tensor([len(row) for row in flat]), mask


def policy_of():
    torch.manual_seed(3)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    lm = Qwen3ForCausalLM(Qwen3Config(vocab_size=V, hidden_size=16, intermediate_size=24, **shape))
    return CausalPolicy(lm, Ids(), options=PolicyOptions(lora_r=0, dtype="float32"))


@pytest.mark.parametrize("micro_batch", [0, 1, 3, 4])
@pytest.mark.parametrize("tokens_at_once", [1, 9, 15, 4096])
def test_any_cut_gives_the_same_scores_and_gradient(micro_batch, tokens_at_once, monkeypatch):
    monkeypatch.setattr(passes, "_CPU_TOKENS", tokens_at_once)
    policy, (tokens, lengths, mask) = policy_of(), rows()
    forward, order = MicroBatcher(policy, micro_batch), torch.tensor([5, 0, 3, 1, 4, 2])

    def gradient(parts):
        policy.zero_grad(set_to_none=True)
        for p in parts:
            policy.score(tokens[p], lengths[p], mask[p], Sampling()).logprobs.sum().backward()
        return [p.grad.clone() for p in policy.trainable().values()]

    parts = forward.split(order, tokens, lengths, mask)
    assert sorted(torch.cat(list(parts)).tolist()) == list(range(6))
    for got, want in zip(gradient(parts), gradient([order]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        whole = policy.score(tokens, lengths, mask, Sampling()).logprobs
        score = partial(policy.score, sampling=Sampling())
        torch.testing.assert_close(forward.score_all(score, tokens, lengths, mask).logprobs, whole)


def test_a_group_that_fits_is_not_cut_and_a_limit_of_tokens_is_one(monkeypatch):
    policy, (tokens, lengths, mask) = policy_of(), rows()
    order = torch.tensor([5, 0, 3, 1, 4, 2])

    def parts(limit, micro_batch=0):
        monkeypatch.setattr(passes, "_CPU_TOKENS", limit)
        found = MicroBatcher(policy, micro_batch).split(order, tokens, lengths, mask)
        return [p.tolist() for p in found]

    assert lengths.tolist() == [5, 4, 6, 4, 3, 3]
    assert parts(17) == [[0, 1, 2, 3, 4, 5]]  # 3 + 2 + 1 + 3, 2 + 2 + 1, 1 + 2: each prompt once
    assert parts(16) == [[0, 1, 2], [3, 4, 5]]  # rows 0 to 3 are 13 tokens, and cut a group
    assert parts(8) == [[0, 1], [2], [3, 4, 5]]
    assert parts(17, micro_batch=4) == [[0, 1, 2], [3, 4, 5]]
    policy.lm.set_attn_implementation("sdpa")  # whole rows: by length instead
    assert parts(14) == [[5, 4, 3, 1], [0, 2]]


def test_no_part_costs_more_than_the_limit():
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


def test_rows_without_an_action_cost_what_they_are_long(monkeypatch):
    policy, (tokens, lengths, mask) = policy_of(), rows()
    monkeypatch.setattr(passes, "_CPU_TOKENS", 11)
    parts = MicroBatcher(policy, 0).split(torch.arange(6), tokens, lengths, torch.zeros_like(mask))
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4, 5]]  # 5 + 4, 6 + 4, 3 + 3


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_what_tokens_leave_in_memory_is_a_limit_too(family, monkeypatch):
    policy, (tokens, lengths, mask) = policy_of(), rows()
    # q, k, v, o, gate, up, down and the head; in and out, and as much again
    floats = 2 * ((16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 24) + (16 + V))
    if family == "gpt2":  # q, k, v as one, o, up, down and the head
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=32))
        policy = CausalPolicy(lm, Ids(), options=PolicyOptions(lora_r=0, dtype="float32"))
        floats = 2 * ((16 + 48) + (16 + 16) + 2 * (16 + 64) + (16 + V))

    def parts(count):
        monkeypatch.setattr(passes, "_CPU_BYTES", count)
        return len(MicroBatcher(policy, 0).split(torch.arange(6), tokens, lengths, mask))

    assert parts(4 * floats * 17) == 1
    assert parts(4 * floats * 17 - 1) == 2
    assert parts(1) == 6
    with torch.no_grad():  # nothing is left for a backward pass
        assert parts(1) == 1
