"""Samplers draw turns with their exact probabilities: chi-square over every turn that a tiny model can generate."""

import itertools

import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import make_policy, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.types import Sampling

V, EOS, LIMIT, DRAWS = 5, 1, 3, 12_000
FALSE_ALARM = 1e-6  # per assertion; there are 10
CONTEXTS = ([2, 3, 4], [4])  # of different lengths, so that one of them is padded


class Ids:
    vocab_size = V
    eos_id = pad_id = EOS


def policy_of(kind: str):
    if kind == "gru":
        policy = make_policy("gru", tokenizer=Ids(), options=PolicyOptions(hidden_size=16), seed=2)
        with torch.no_grad():
            policy.body.head.weight *= 4
        return policy
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    return CausalPolicy(
        LlamaForCausalLM(config), Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0), dtype="float32")
    )


def next_probabilities(policy, ids: list[int], sampling: Sampling) -> torch.Tensor:
    """Return the next token's probabilities by definition, from a plain forward of one row, in float64.

    Top-k assumes distinct logits; top-p sorts.
    """
    with torch.no_grad():
        row = torch.tensor([ids])
        logits = policy.body.head(policy.body.read(row)) if hasattr(policy, "body") else policy.lm(row).logits
    z = logits[0, -1].double() / sampling.temperature
    order = z.argsort(descending=True).tolist()
    candidates = order[: sampling.top_k or V]
    p = dict(zip(candidates, z[candidates].softmax(-1).tolist(), strict=True))
    nucleus, mass = [], 0.0
    for i in candidates:
        nucleus.append(i)
        mass += p[i]
        if mass >= sampling.top_p:
            break
    return torch.tensor([p[i] / mass if i in nucleus else 0.0 for i in range(V)], dtype=torch.float64)


def exact(policy, context: list[int], sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Return turn -> probability of every turn of at most LIMIT tokens."""
    complete: dict[tuple[int, ...], float] = {}
    open_turns = {(): 1.0}
    for step in range(LIMIT):
        longer = {}
        for turn, mass in open_turns.items():
            for token, p in enumerate(next_probabilities(policy, [*context, *turn], sampling).tolist()):
                if p:
                    ended = token == EOS or step == LIMIT - 1
                    (complete if ended else longer)[(*turn, token)] = mass * p
        open_turns = longer
    return complete


def p_value(observed: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> float:
    """Return the p-value of the chi-square test; turns with fewer than 5 expected counts are pooled."""
    if set(observed) - set(expected):
        return 0.0
    cells = sorted(expected.items(), key=lambda kv: -kv[1])
    big = [(observed.get(turn, 0), DRAWS * p) for turn, p in cells if DRAWS * p >= 5]
    rest = [(observed.get(turn, 0), DRAWS * p) for turn, p in cells if DRAWS * p < 5]
    if rest and sum(e for _, e in rest) >= 1:
        big.append((sum(o for o, _ in rest), sum(e for _, e in rest)))
    return float(stats.chi2.sf(sum((o - e) ** 2 / e for o, e in big), len(big) - 1))


CASES = [
    *list(itertools.product(["llama"], ["decode", "generate"], [Sampling(), Sampling(0.7, 4, 0.95)])),
    ("gru", "decode", Sampling(0.7)),
]


@pytest.mark.parametrize(("kind", "sampler", "sampling"), CASES, ids=str)
def test_turns_have_their_exact_probabilities(kind, sampler, sampling):
    policy = policy_of(kind)
    generator = torch.Generator().manual_seed(11)
    counts: list[dict[tuple[int, ...], int]] = [{}, {}]
    half = DRAWS // 4
    for _ in range(4):
        samples = make_sampler(sampler, policy).sample(
            [c for c in CONTEXTS for _ in range(half)],
            max_new=LIMIT,
            stop_ids=frozenset({EOS}),
            sampling=sampling,
            generator=generator,
        )
        for i, (row, n) in enumerate(zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)):
            turn = tuple(row[:n])
            counts[i // half][turn] = counts[i // half].get(turn, 0) + 1
    for context, observed in zip(CONTEXTS, counts, strict=True):
        probabilities = exact(policy, context, sampling)
        assert sum(probabilities.values()) == pytest.approx(1.0, abs=1e-9)
        assert p_value(observed, probabilities) > FALSE_ALARM
    # the test can fail: it detects a slightly wrong temperature
    wrong = exact(policy, CONTEXTS[0], Sampling(1.2 * sampling.temperature, sampling.top_k, sampling.top_p))
    assert p_value(counts[0], wrong) < FALSE_ALARM
