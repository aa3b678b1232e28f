"""Linear layers: values and gradients equal those of PyTorch's layer, with oneDNN's product and without it."""

import pytest
import torch
from torch import nn

from rlalign.policies.scoring import linear
from rlalign.policies.scoring.linear import matmul_transposed, onednn_is_faster, speed_up

ROWS = [1, linear._FEW_ROWS, linear._FEW_ROWS + 1, 200]


def both(rows, bias, frozen):
    """Return (output, gradients) of PyTorch's layer and of ours."""
    results = []
    for ours in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(12, 20, bias=bias)
        if ours:
            holder = nn.Sequential(layer)
            speed_up(holder)
            assert type(holder[0]) is linear.Linear
        layer.weight.requires_grad_(not frozen)
        x = torch.randn(1, rows, 12, requires_grad=True)
        y = layer(x)
        y.mul(torch.randn(1, rows, 20)).sum().backward()
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad if bias else None))
    return results


@pytest.mark.parametrize(
    "use_onednn", [False, pytest.param(True, marks=pytest.mark.skipif(not onednn_is_faster(), reason="no oneDNN"))]
)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_values_and_gradients(rows, bias, frozen, use_onednn, monkeypatch):
    monkeypatch.setattr(linear, "_USE_ONEDNN", use_onednn)
    for expected, actual in zip(*both(rows, bias, frozen), strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_matmul_takes_both_memory_layouts_of_a_weight(transposed):
    x = torch.randn(100, 12)
    weight = torch.randn(12, 20).t() if transposed else torch.randn(20, 12)
    torch.testing.assert_close(matmul_transposed(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)


def test_onednn_is_not_used_if_it_is_missing(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not onednn_is_faster()
    monkeypatch.undo()
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert not onednn_is_faster()
