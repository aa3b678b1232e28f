"""RMSNorm: values and gradients equal those of transformers' modules."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rlalign.policies.scoring.linear import speed_up
from rlalign.policies.scoring.norm import RMSNorm

KINDS = [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm]


def both(kind, shape, dtype, weight_dtype, frozen=False):
    """Return (output, gradients) of transformers' module and of ours."""
    results = []
    for ours in (False, True):
        torch.manual_seed(0)
        norm = kind(shape[-1], eps=1e-3)
        with torch.no_grad():
            norm.weight.add_(0.5 * torch.randn(shape[-1]))
        norm.to(weight_dtype).requires_grad_(not frozen)
        if ours:
            holder = torch.nn.Sequential(norm)
            speed_up(holder)
            assert type(holder[0]) is RMSNorm
        x = torch.randn(shape).to(dtype).requires_grad_()
        y = norm(x)
        y.float().mul(torch.randn(shape)).sum().backward()
        results.append((y, x.grad, norm.weight.grad))
    return results


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 7, 12), (1, 7, 3, 8), (5, 16)], ids=str)
def test_float32_values_and_gradients(kind, shape):
    for expected, actual in zip(*both(kind, shape, torch.float32, torch.float32), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_frozen_weight_gets_no_gradient():
    expected, actual = both(LlamaRMSNorm, (5, 16), torch.float32, torch.float32, frozen=True)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-6)
    assert actual[2] is None


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_is_close_to_transformers(weight_dtype):
    expected, actual = both(LlamaRMSNorm, (64, 32), torch.bfloat16, weight_dtype)
    assert actual[0].dtype == expected[0].dtype
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-2)
    if weight_dtype == torch.bfloat16:  # the same operations: equal bit for bit
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_a_second_derivative_raises_an_error():
    holder = torch.nn.Sequential(LlamaRMSNorm(8))
    speed_up(holder)
    x = torch.randn(3, 8, requires_grad=True)
    (first,) = torch.autograd.grad(holder(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
