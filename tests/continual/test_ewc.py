"""Elastic weight consolidation: the penalty's gradient, the Fisher information, and the learner's update."""

from __future__ import annotations

import itertools

import pytest
import torch

from rlalign.config.schema import LearnerConfig
from rlalign.continual.ewc import EWC, penalty
from rlalign.continual.fisher import diagonal_fisher, squared_scores
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.errors import FaultError
from rlalign.objective import Objective
from rlalign.oracle import TokenMDP
from rlalign.policies.factory import make_policy
from rlalign.policies.tabular import TabularPolicy
from rlalign.rollout.source import TokenRows
from rlalign.tokenizers import CharTokenizer
from rlalign.training.learner import Learner
from rlalign.types import Sampling
from tests.exact.test_learner_is_the_oracle import HORIZON, SAMPLING, learner_of, policy_of, rollout_of

SAMPLES = 1500


def weights(seed: int) -> dict[str, torch.nn.Parameter]:
    """Return float64 parameters of two shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator))
        for name, shape in (("a", (3, 2)), ("b", (4,)))
    }


def begun(parameters: dict[str, torch.nn.Parameter], coef: float) -> EWC:
    """Return a penalty with a random Fisher information, whose start is not the present value any more."""
    ewc = EWC(coef, parameters)
    ewc.begin({name: value.detach().square() for name, value in weights(1).items()})
    with torch.no_grad():
        for name, value in weights(2).items():
            parameters[name] += value
    return ewc


def test_the_gradient_is_that_of_autograd() -> None:
    parameters = weights(0)
    ewc = begun(parameters, coef=0.7)
    value = penalty(parameters, ewc.start, ewc.fisher, 0.7)
    expected = torch.autograd.grad(value, list(parameters.values()))
    value = value.detach()
    parameters["a"].grad = torch.ones_like(parameters["a"])  # of the policy's loss: it is added to
    returned = ewc.add_gradient()
    assert float(returned) == pytest.approx(float(value), rel=1e-14)
    torch.testing.assert_close(parameters["a"].grad, expected[0] + 1, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parameters["b"].grad, expected[1], rtol=1e-13, atol=1e-13)


def test_the_state_survives_and_another_policys_state_is_refused() -> None:
    parameters = weights(0)
    ewc = begun(parameters, coef=0.7)
    restored = EWC(0.7, parameters)
    restored.load_state_dict(ewc.state_dict())
    assert all(torch.equal(restored.start[name], ewc.start[name]) for name in parameters)
    assert all(torch.equal(restored.fisher[name], ewc.fisher[name]) for name in parameters)
    for state in (None, {"start": ewc.start, "fisher": {"a": ewc.fisher["a"]}}):
        with pytest.raises(FaultError, match="no Fisher information of these parameters"):
            restored.load_state_dict(state)


def two_letters() -> tuple[TabularPolicy, TextMDP]:
    """Return a random table over two letters, and an environment with one prompt and answers of up to two tokens."""
    tokenizer = CharTokenizer("ab")
    mdp = TextMDP(source=[{"prompt": "a", "answer": "b"}] * 3, tokenizer=tokenizer, max_prompt=2, max_new=2)
    policy = TabularPolicy(tokenizer, horizon=3)
    with torch.no_grad():
        policy.table += torch.randn(policy.table.shape, generator=torch.Generator().manual_seed(3)).double()
    return policy, mdp


def completions(policy: TabularPolicy) -> TokenRows:
    """Return all completions of the prompt `a`: EOS at once, another token and EOS or any token."""
    eos, ids = policy.tokenizer.eos_id, range(policy.tokenizer.vocab_size)
    answers = [(eos,), *((first, second) for first, second in itertools.product(ids, ids) if first != eos)]
    prompt = policy.tokenizer.encode("a")
    tokens = torch.tensor([[*prompt, *answer, *[0] * (2 - len(answer))] for answer in answers])
    lengths = torch.tensor([1 + len(answer) for answer in answers])
    columns = torch.arange(3)
    return TokenRows(tokens, lengths, (columns >= 1) & (columns < lengths[:, None]))


@pytest.mark.parametrize("temperature", [0.6])
def test_the_fisher_information_is_that_of_enumeration(temperature: float) -> None:
    """Each entry is a mean of 1,500 independent values: within 5 standard errors of the exact one.

    The bound is exceeded by chance in 1 of 30,000 runs for the 20 entries that are not 0; seeds are fixed.
    """
    policy, mdp = two_letters()
    sampling = Sampling(temperature=temperature)
    rows = completions(policy)
    exact = torch.zeros_like(policy.table)
    second = torch.zeros_like(policy.table)
    for i in range(len(rows.tokens)):
        one = TokenRows(rows.tokens[i : i + 1], rows.lengths[i : i + 1], rows.action_mask[i : i + 1])
        probability = policy.score(one.tokens, one.lengths, one.action_mask, sampling).logprobs.sum().exp().detach()
        squared = squared_scores(policy, one, sampling)["table"]
        exact += probability * squared
        second += probability * squared.square()
    fisher = diagonal_fisher(policy, mdp, samples=SAMPLES, sampling=sampling, sampler="decode", seed=0)["table"]
    error = ((second - exact.square()).clamp(min=0) / SAMPLES).sqrt()
    assert bool(((fisher - exact).abs() <= 5 * error + 1e-12).all())
    # of a softmax: Σ over paths of p(context) · p_a (1 - p_a) / temperature²
    first_row = int(policy.rows(torch.tensor([policy.tokenizer.encode("a")]))[0, -1])
    p = (policy.table[first_row] / temperature).softmax(-1)
    torch.testing.assert_close(exact[first_row], (p * (1 - p) / temperature**2).detach(), rtol=1e-6, atol=1e-9)


def test_the_prompts_have_the_shares_of_a_mixture() -> None:
    """An environment without a share has no part in the Fisher information: it is that of the other one alone."""
    tokenizer = CharTokenizer("ab")
    parts = {
        name: TextMDP(source=[{"prompt": name, "answer": "b"}] * 8, tokenizer=tokenizer, max_prompt=2, max_new=2)
        for name in "ab"
    }
    policy, _ = two_letters()
    mixture = Mixture(parts, {"a": 0.0, "b": 1.0}, tokenizer=tokenizer)
    options = {"samples": 12, "sampling": Sampling(), "sampler": "decode", "seed": 0}
    found = diagonal_fisher(policy, mixture, **options)["table"]
    at_a, at_b = (int(policy.rows(torch.tensor([tokenizer.encode(name)]))[0, -1]) for name in "ab")
    assert float(found[at_a].abs().sum()) == 0.0
    assert float(found[at_b].abs().sum()) > 0.0


def test_completions_count_one_by_one() -> None:
    """The square of the summed score of two completions is another number than the sum of their squares."""
    policy, _ = two_letters()
    rows = completions(policy)
    both = TokenRows(rows.tokens[:2], rows.lengths[:2], rows.action_mask[:2])
    apart = [
        squared_scores(
            policy, TokenRows(*(x[i : i + 1] for x in (both.tokens, both.lengths, both.action_mask))), Sampling()
        )
        for i in range(2)
    ]
    together = squared_scores(policy, both, Sampling())["table"]
    torch.testing.assert_close(together, apart[0]["table"] + apart[1]["table"])
    assert bool((together >= 0).all())


def test_parameters_of_the_value_have_no_fisher_information() -> None:
    tokenizer = CharTokenizer("ab")
    policy = TabularPolicy(tokenizer, horizon=2, value_head=True)
    rows = TokenRows(torch.tensor([[2, 3, 1]]), torch.tensor([3]), torch.tensor([[False, True, True]]))
    scores = squared_scores(policy, rows, Sampling())
    assert float(scores["values"].abs().sum()) == 0.0
    assert float(scores["table"].sum()) > 0


def test_an_update_of_the_learner_adds_the_gradient_before_clipping() -> None:
    mdp = TokenMDP(horizon=HORIZON)
    plain, _ = policy_of(mdp, None)
    held, _ = policy_of(mdp, None)
    gradients = []
    for policy, coef in ((plain, 0.0), (held, 2.0)):
        learner = learner_of(policy, Objective(), lr=1e-3, max_grad_norm=0.0)
        if coef:
            learner.ewc = EWC(coef, policy.trainable())
            learner.ewc.begin({"table": torch.full_like(policy.table, 3.0)})
            learner.ewc.start = {"table": policy.table.detach() - 0.1}
        found = {}

        def keep(parameters: list[torch.Tensor], found: dict[str, torch.Tensor] = found) -> None:
            found["gradient"] = parameters[0].grad.clone()

        step = learner._step
        learner._step = lambda step=step, keep=keep, learner=learner: (keep(learner.parameters), step())
        metrics = learner.update(learner.prepare(rollout_of(mdp, policy, [0, 1, 2])))
        gradients.append(found["gradient"])
        assert ("train/ewc" in metrics) == bool(coef)
    torch.testing.assert_close(gradients[1] - gradients[0], torch.full_like(held.table, 2.0 * 3.0 * 0.1))
    assert metrics["train/ewc"] == pytest.approx(0.5 * 2.0 * 3.0 * 0.01 * held.table.numel())


def test_only_the_value_learns_while_it_is_pretrained() -> None:
    """VC-PPO: the penalty moves no weight of the policy in these steps."""
    from rlalign.algorithms import algorithm

    objective = algorithm("vc_ppo").objective
    tokenizer = CharTokenizer("ab")
    policy = make_policy("gru", tokenizer=tokenizer)
    ewc = EWC(1.0, policy.trainable())
    learner = Learner(
        policy, objective, LearnerConfig(), sampling=SAMPLING, total_updates=1, generator=torch.Generator(),
        max_length=2, ewc=ewc,
    )  # fmt: skip
    assert learner.ewc is ewc
    assert learner.state.pretraining(objective) == (objective.value.pretrain_steps > 0)
