"""Attention over a packed row, and its registration as an attention function of transformers.

A transformers decoder can use the packed layout if it takes its attention from the `AttentionInterface` and passes
unknown keyword arguments on to it. `path_check` tests this when a policy is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rlalign.policies.scoring.packing import Bucket, Packing

ATTENTION_NAME = "rlalign_packed"
"""Name of our attention in transformers' registry; without a packing it is transformers' own `sdpa`."""
_EAGER_BYTES = {torch.float32: 1 << 25, torch.bfloat16: 1 << 26}
"""Size of the scores up to which the eager formula is faster than the fused kernel on a CPU."""
_IGNORED_ARGUMENTS = {
    "dropout",
    "is_causal",
    "position_ids",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
}
"""Keyword arguments of a layer that do not change the result in packed rows."""


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    packing: Packing | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute attention with the signature that transformers calls.

    Args:
        module: the attention layer.
        query: [1, H, M, e].
        key: [1, K, M, e].
        value: [1, K, M, e].
        attention_mask: used without a packing only.
        scaling: factor of the scores; e^-½ by default.
        packing: the layout of the row; None for transformers' `sdpa`.
        others: further arguments of the layer.

    Returns:
        Outputs [1, M, H, e], and None in place of the weights.

    Raises:
        NotImplementedError: the layer asks for more than softmax(scaling · q kᵀ) v over the preceding tokens.
    """
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        arguments = {**others, "scaling": scaling}
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
        return out, None
    unsupported = unsupported_arguments(others)
    if unsupported or len(query) != 1:
        raise NotImplementedError(f"packed attention with {', '.join(unsupported) or 'several rows'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed_attention(q, k, v, packing, scale)[None], None


def unsupported_arguments(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of a layer's arguments that packed attention would have to implement."""
    return [name for name, value in arguments.items() if value is not None and name not in _IGNORED_ARGUMENTS]


def packed_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float) -> Tensor:
    """Compute softmax(scale · q kᵀ) v over the tokens that each token attends to.

    Args:
        q: [M, H, e].
        k: [M, K, e].
        v: [M, K, e].
        packing: the layout of the M tokens.
        scale: factor of the scores.

    Returns:
        [M, H, e].
    """
    outputs = [_bucket_attention(q, k, v, bucket, scale) for bucket in packing.buckets]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).index_select(0, packing.output_index)


def _bucket_attention(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scale: float) -> Tensor:
    """Return the outputs [n · T, H, e] of a bucket."""
    n, t = bucket.queries.shape
    s = bucket.keys.shape[1]
    heads = q.shape[1]
    kv_heads = k.shape[1]
    group = heads // kv_heads
    # the query heads of one key head become further positions of it, so that no key is repeated
    q = q.index_select(0, bucket.queries.flatten()).view(n, t, kv_heads, group, -1).permute(0, 2, 3, 1, 4)
    k, v = (x.index_select(0, bucket.keys.flatten()).view(n, s, kv_heads, -1).transpose(1, 2) for x in (k, v))
    # 4 bytes per score: the eager formula forms them in float32 unless autocast is active
    if q.device.type == "cpu" and 4 * n * heads * t * s <= _EAGER_BYTES.get(_matmul_dtype(q), 0):
        out = _eager_attention(q, k, v, bucket.mask, scale)
    else:
        q = q.flatten(1, 2)
        k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (k, v))
        mask = None if bucket.mask is None else bucket.mask.to(q.dtype)[:, None]
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.reshape(n, heads, t, -1).transpose(1, 2).reshape(n * t, heads, -1)


def _matmul_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which x is multiplied: autocast may choose another one than that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return softmax(scale · q kᵀ + mask) v for q [n, K, group, T, e], k and v [n, K, S, e]: [n · K, group · T, e]."""
    n, kv_heads, group, t, e = q.shape
    s = k.shape[2]
    if mask is None:
        mask = torch.full((t, s), -torch.inf).triu_(1)[None]
    scores = (q * scale).reshape(n * kv_heads, group * t, e) @ k.reshape(n * kv_heads, s, e).transpose(1, 2)
    # the mask is a constant: adding it to the detached scores, in place, leaves the gradient as it is, while autograd
    # would copy all scores for the change of a view
    scores.detach().view(n, kv_heads, group, t, s).add_(mask[:, None, None])
    return scores.softmax(-1) @ v.reshape(n * kv_heads, s, -1)


def register() -> None:
    """Register our attention in transformers under `ATTENTION_NAME`; masks remain those of `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION_NAME, packed_attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
