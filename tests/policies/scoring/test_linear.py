"""Our linear layer is PyTorch's, values and gradients, by oneDNN's product and without it."""

import pytest
import torch
from torch import nn

from rlalign.policies.scoring import linear
from rlalign.policies.scoring.linear import onednn, product, speed_up

ROWS = [1, linear._THIN, linear._THIN + 1, 200]


def both(rows, bias, frozen):
    """(output, gradients) of PyTorch's layer and of ours."""
    found = []
    for ours in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(12, 20, bias=bias)
        if ours:
            speed_up(holder := nn.Sequential(layer))
            assert type(holder[0]) is linear.Linear
        layer.weight.requires_grad_(not frozen)
        x = torch.randn(1, rows, 12, requires_grad=True)
        y = layer(x)
        y.mul(torch.randn(1, rows, 20)).sum().backward()
        found.append((y, x.grad, layer.weight.grad, layer.bias.grad if bias else None))
    return found


@pytest.mark.parametrize(
    "asked", [False, pytest.param(True, marks=pytest.mark.skipif(not onednn(), reason="no oneDNN"))]
)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_values_and_gradients(rows, bias, frozen, asked, monkeypatch):
    monkeypatch.setattr(linear, "_ONEDNN", asked)
    for want, got in zip(*both(rows, bias, frozen), strict=True):
        assert (want is None) == (got is None)
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_a_product_takes_a_weight_either_way_round(turned):
    x, weight = torch.randn(100, 12), torch.randn(12, 20).t() if turned else torch.randn(20, 12)
    torch.testing.assert_close(product(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)


def test_an_operator_that_is_not_there_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not onednn()
    monkeypatch.undo()
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert not onednn()
