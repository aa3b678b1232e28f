"""Temperature, top-k, top-p and drawing, against their definitions and against frequencies."""

import math

import pytest
import torch
from scipy import stats

from rlalign.policies.logits import draw, entropy, process, token_logprobs
from rlalign.types import Sampling


def uniforms(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, dtype=torch.float64, generator=generator)


LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 1.0]])


def support(sampling: Sampling) -> list[int]:
    return process(LOGITS, sampling)[0].isfinite().nonzero().flatten().tolist()


def test_temperature_divides_before_top_k_and_top_p():
    assert torch.equal(process(LOGITS, Sampling(temperature=0.5)), LOGITS * 2)
    p = LOGITS.softmax(-1)[0]
    # at temperature 1 the first token alone does not reach 0.6; at 0.25 it does
    assert p[0] < 0.6
    assert support(Sampling(top_p=0.6)) != [0]
    assert support(Sampling(temperature=0.25, top_p=0.6)) == [0]


def test_top_k_keeps_ties_and_top_p_the_smallest_sufficient_set():
    assert support(Sampling(top_k=1)) == [0]
    assert support(Sampling(top_k=2)) == [0, 1, 4]  # the second and third tie
    p = LOGITS.softmax(-1)[0]
    assert support(Sampling(top_p=float(p[0]) - 1e-3)) == [0]
    assert support(Sampling(top_p=float(p[0]) + 1e-3)) == [0, 1]
    assert support(Sampling(top_p=float(p[0] + p[1]) + 1e-3)) == [0, 1, 4]
    assert support(Sampling(top_p=1e-9)) == [0]
    assert support(Sampling(top_k=0, top_p=1.0)) == [0, 1, 2, 3, 4]


def test_top_p_applies_to_the_result_of_top_k():
    # after top-2 (three tokens with the tie) the first has 0.576, so 0.57 needs it alone; of all five it has 0.52
    assert support(Sampling(top_k=2, top_p=0.57)) == [0]
    assert support(Sampling(top_p=0.57)) == [0, 1]


def test_logprobs_and_entropy_are_of_the_processed_distribution():
    sampling = Sampling(temperature=0.7, top_k=3)
    p = process(LOGITS, sampling).softmax(-1)[0]
    logprob, z = token_logprobs(LOGITS, torch.tensor([4]), sampling)
    assert logprob.item() == pytest.approx(math.log(p[4]), abs=1e-6)
    assert entropy(z).item() == pytest.approx(-sum(float(q) * math.log(q) for q in p if q > 0), abs=1e-6)


def test_a_target_outside_the_support_is_restored():
    logprob, _ = token_logprobs(LOGITS, torch.tensor([2]), Sampling(top_k=1))
    assert logprob.item() == pytest.approx(-math.log1p(math.exp(2.0)), abs=1e-6)


def test_entropy_has_a_finite_gradient_with_excluded_tokens():
    logits = LOGITS.clone().requires_grad_()
    _, z = token_logprobs(logits, torch.tensor([0]), Sampling(top_k=1))
    entropy(z).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("size", [5, 512, 513, 1000, 1024])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.5, 3, 0.9)])
def test_drawn_frequencies(size: int, sampling: Sampling):
    # false-alarm rate 1e-6 each, 10 cases
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(1, size, generator=generator)
    n = 40_000
    tokens, logprobs = draw(logits.expand(n, -1), sampling, uniforms(n, generator))
    p = process(logits, sampling)[0].double().softmax(-1)
    assert torch.allclose(logprobs, p.log()[tokens].float(), atol=1e-5)
    counts = torch.bincount(tokens, minlength=size).double()
    assert counts[p == 0].sum() == 0
    big = p * n >= 5
    observed, expected = counts[big], p[big] * n
    if rest := float((p[~big] * n).sum()):
        observed, expected = (
            torch.cat([observed, counts[~big].sum()[None]]),
            torch.cat([expected, torch.tensor([rest])]),
        )
    chi2 = float(((observed - expected) ** 2 / expected).sum())
    assert stats.chi2.sf(chi2, max(len(observed) - 1, 1)) > 1e-6


@pytest.mark.parametrize("size", [400, 600, 1024])
def test_a_zero_probability_token_is_never_drawn_at_the_edges(size: int):
    logits = torch.full((1, size), -torch.inf)
    logits[0, [3, 300]] = 0.0
    drawn, _ = draw(logits.expand(5000, -1), Sampling(), uniforms(5000, torch.Generator().manual_seed(0)))
    assert set(drawn.tolist()) == {3, 300}


def test_greedy_takes_the_most_probable_token_with_its_logprob():
    token, logprob = draw(LOGITS, Sampling(temperature=2.0), None)
    assert token.item() == 0
    assert logprob.item() == pytest.approx(float((LOGITS / 2).log_softmax(-1)[0, 0]), abs=1e-6)


@pytest.mark.parametrize("size", [300, 1000, 1024])
def test_nan_logits_give_nan_logprobs_and_no_crash(size: int):
    tokens, logprobs = draw(torch.full((2, size), torch.nan), Sampling(), torch.tensor([0.3, 0.9], dtype=torch.float64))
    assert logprobs.isnan().all()
    assert ((tokens >= 0) & (tokens < size)).all()
