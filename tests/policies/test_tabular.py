"""The tabular policy: one row per context, equal scores in scoring and decoding, a fixed reference."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlalign.errors import UserError
from rlalign.policies.options import PolicyOptions
from rlalign.policies.tabular import TabularPolicy, tabular
from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Sampling


@pytest.fixture
def policy() -> TabularPolicy:
    return TabularPolicy(CharTokenizer("ab"), horizon=3, seed=1, scale=1.0, value_head=True)


def test_contexts_within_the_horizon_have_rows_of_their_own(policy: TabularPolicy) -> None:
    contexts = [c for n in range(4) for c in product(range(policy.tokenizer.vocab_size), repeat=n)]
    rows = {int(policy.rows(torch.tensor([c], dtype=torch.int64))[0, -1]) for c in contexts}
    assert len(rows) == len(contexts) == len(policy.table)


def test_the_last_tokens_determine_the_row_of_a_longer_context(policy: TabularPolicy) -> None:
    rows = policy.rows(torch.tensor([[0, 1, 1, 0, 1], [1, 0, 1, 0, 1]]))
    assert rows[0, 5] == rows[1, 5]
    assert rows[0, 4] != rows[0, 5]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(1.0, top_k=2)])
def test_decoding_and_scoring_agree(policy: TabularPolicy, sampling: Sampling) -> None:
    v = policy.tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, v, (6, 7), generator=generator)
    state, logits = policy.prefill([tokens[0, :2].tolist(), tokens[3, :2].tolist()], [3, 3])
    tokens[1:3, :2], tokens[4:, :2] = tokens[0, :2], tokens[3, :2]
    mask = torch.arange(7).expand(6, 7) >= 2
    scored = policy.score(tokens, torch.full((6,), 7), mask, sampling).logprobs
    for t in range(2, 7):
        decoded = (logits / sampling.temperature).log_softmax(1).gather(1, tokens[:, t, None]).squeeze(1)
        if not sampling.top_k:
            torch.testing.assert_close(scored[:, t], decoded, rtol=0, atol=1e-6)
        logits = policy.decode(state, tokens[:, t])
    assert (scored[:, :2] == 0).all()
    state.select(torch.tensor([5, 0]))
    again = policy.decode(state, torch.tensor([1, 1]))
    assert again.shape == (2, v)


def test_entropies_and_values_are_at_the_actions(policy: TabularPolicy) -> None:
    assert policy.values is not None
    with torch.no_grad():
        policy.values.copy_(torch.arange(len(policy.values)))
    tokens, lengths = torch.tensor([[0, 1, 0], [1, 1, 0]]), torch.tensor([3, 2])
    mask = torch.tensor([[False, True, True], [False, True, False]])
    scores = policy.score(tokens, lengths, mask, Sampling(), entropy=True, values=True)
    rows = policy.rows(tokens)
    assert scores.values is not None
    assert scores.entropies is not None
    assert scores.final_values is not None
    assert scores.values.tolist() == [[0, rows[0, 1], rows[0, 2]], [0, rows[1, 1], 0]]
    assert scores.final_values.tolist() == [rows[0, 3], rows[1, 2]]
    p = policy.table[rows[1, 1]].softmax(0)
    assert scores.entropies[1, 1].item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
    assert scores.entropies[1, 2] == 0


def test_the_reference_stays_when_the_policy_changes(policy: TabularPolicy) -> None:
    tokens, lengths, mask = torch.tensor([[0, 1]]), torch.tensor([2]), torch.tensor([[False, True]])
    before = policy.score(tokens, lengths, mask, Sampling()).logprobs.detach()
    with torch.no_grad():
        policy.table[:, 0] += 1
    torch.testing.assert_close(policy.reference_logprobs(tokens, lengths, mask, Sampling()), before)
    assert not torch.allclose(policy.score(tokens, lengths, mask, Sampling()).logprobs, before)
    assert set(policy.trainable()) == {"table", "values"}


def test_scores_do_not_depend_on_padding(policy: TabularPolicy) -> None:
    tokens, lengths, mask = torch.tensor([[0, 1, 2]]), torch.tensor([2]), torch.tensor([[False, True, False]])
    other = torch.tensor([[0, 1, 10**6]])
    a, b = (policy.score(t, lengths, mask, Sampling(), values=True) for t in (tokens, other))
    torch.testing.assert_close(a.logprobs, b.logprobs)
    torch.testing.assert_close(a.final_values, b.final_values)


def test_the_factory_takes_the_longest_horizon_within_the_limit(tmp_path: Path) -> None:
    small = tabular(CharTokenizer("ab"), PolicyOptions(value="head"))
    assert small.values is not None
    assert small.horizon > 5
    assert tabular(ByteTokenizer()).horizon == 1
    with pytest.raises(UserError, match="shorter horizon"):
        TabularPolicy(ByteTokenizer(), horizon=3)
    with pytest.raises(UserError, match="environment's"):
        tabular()
    one = torch.ones(1, 1, dtype=torch.int64)
    with pytest.raises(UserError, match=r"value\.kind"):
        tabular(CharTokenizer("ab")).score(one, one[0], one.bool(), Sampling(), values=True)
    small.save_pretrained(tmp_path / "policy")
    assert torch.equal(load_file(str(tmp_path / "policy" / "table.safetensors"))["table"], small.table.detach())
