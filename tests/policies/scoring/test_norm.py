"""The norm with a gradient of its own is transformers' norm, values and gradients."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rlalign.policies.scoring.linear import speed_up
from rlalign.policies.scoring.norm import RMSNorm

KINDS = [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm]


def both(kind, shape, dtype, weight_dtype, frozen=False):
    """(output, gradients) of transformers' module and of ours."""
    found = []
    for ours in (False, True):
        torch.manual_seed(0)
        norm = kind(shape[-1], eps=1e-3)
        with torch.no_grad():
            norm.weight.add_(0.5 * torch.randn(shape[-1]))
        norm.to(weight_dtype).requires_grad_(not frozen)
        if ours:
            speed_up(holder := torch.nn.Sequential(norm))
            assert type(holder[0]) is RMSNorm
        x = torch.randn(shape).to(dtype).requires_grad_()
        y = norm(x)
        y.float().mul(torch.randn(shape)).sum().backward()
        found.append((y, x.grad, norm.weight.grad))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 7, 12), (1, 7, 3, 8), (5, 16)], ids=str)
def test_float32_values_and_gradients(kind, shape):
    for want, got in zip(*both(kind, shape, torch.float32, torch.float32), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_frozen_weight_gets_no_gradient():
    want, got = both(LlamaRMSNorm, (5, 16), torch.float32, torch.float32, frozen=True)
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-6)
    assert got[2] is None


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_is_no_farther_from_float32_than_transformers(weight_dtype):
    want, got = both(LlamaRMSNorm, (64, 32), torch.bfloat16, weight_dtype)
    assert got[0].dtype == want[0].dtype
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-2)
    if weight_dtype == torch.bfloat16:  # as it is, bit for bit
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_second_derivative_is_refused():
    holder = torch.nn.Sequential(LlamaRMSNorm(8))
    speed_up(holder)
    x = torch.randn(3, 8, requires_grad=True)
    (first,) = torch.autograd.grad(holder(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
