"""Writing a causal policy so that other programs load it, and measuring what was written.

Each part is loaded back by its own loader (transformers for the folder, peft for the adapter) and compared with the
policy, in float32 and on the same tokens. Rounding merged weights to the dtype of the base can lose the update: at a
learning rate of 1e-6 most of it lies below the resolution of bfloat16.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rlalign.errors import FaultError
from rlalign.policies.lora import hidden_peft_warnings, merge_adapters
from rlalign.policies.options import PolicyOptions
from rlalign.policies.rounding import rounded_embeddings
from rlalign.policies.weight_dtype import cast_weights, float32_copy

BOUND = 1e-3
"""Nats per token. What was written is the policy if no log-prob differs by more.

More is allowed for a model with more rounding of its own: ten times the median change of its log-probs under
`rounded_embeddings`, up to `_LARGEST_BOUND`. Positions that change by more than a tenth of the bound are not compared.
"""
_LARGEST_BOUND = 1e-2
_COSINE = 0.99
"""Of the change of the log-probs that the written weights hold with the change that was trained."""
_NOISE = 1e-5
"""Nats per token. A change below it is rounding of float32, whose direction means nothing."""
_ROWS = 8
_TOKENS = 32
"""Rows, and tokens per row, that are compared."""
_FEW = 64
"""Tokens below which drawn rows are added."""
_FLOOR = -30.0
"""Log-probs below it are equal: a token of probability 1e-13 is not drawn, and its log-prob has no accuracy."""


class Exportable(Protocol):
    """The parts of a `CausalPolicy` that are written and measured."""

    model: Any
    reference: Any
    options: PolicyOptions
    stored_dtype: torch.dtype

    @property
    def lm(self) -> Any:
        """The transformers model, with its adapters."""

    @property
    def has_adapter(self) -> bool:
        """True if an adapter is trained over frozen weights."""
        ...

    @property
    def has_reference(self) -> bool:
        """True if the initial policy is kept."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the frozen weights under an adapter."""
        ...


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance of written weights from the policy.

    Attributes:
        nats: largest difference of a log-prob, over all tokens of the vocabulary at each position.
        cosine: of the change from the initial policy that the written weights hold with the change of the policy; None
            if the initial policy is not known.
        bound: nats up to which the written weights are the policy.
    """

    nats: float
    cosine: float | None
    bound: float = BOUND

    @property
    def is_policy(self) -> bool:
        """True if the written weights are the policy."""
        return self.nats <= self.bound

    @property
    def loses_nothing(self) -> bool:
        """True if the written weights are the policy and hold what was trained."""
        return self.is_policy and self.cosine is not None and self.cosine >= _COSINE

    def __str__(self) -> str:
        if self.cosine is None:
            return f"{self.nats:.1e} nats, and its change from the initial policy, which was not kept, is not known"
        return f"{self.nats:.1e} nats, and hold a change of cosine {self.cosine:.3f} with the trained one"


class Measure:
    """Log-probs of a policy and of its initial policy on fixed tokens, in float32 on the CPU.

    Args:
        policy: the policy.
        held_out: token ids of contexts; drawn ids are added if these are few.
    """

    def __init__(self, policy: Exportable, held_out: Sequence[Sequence[int]]) -> None:
        config = policy.lm.config.get_text_config()
        longest = min(_TOKENS, getattr(config, "max_position_embeddings", None) or _TOKENS)
        rows = [list(row[:longest]) for row in held_out[:_ROWS]]
        if sum(map(len, rows)) < _FEW:
            rows += [row[:longest] for row in _drawn_rows(policy.lm.get_input_embeddings().weight.shape[0])]
        self.rows = [torch.as_tensor(row) for row in rows]
        model = float32_copy(policy.model)
        logprobs = self._logprobs(model)
        with rounded_embeddings(_plain(model)):
            changes = (self._logprobs(model) - logprobs).abs().amax(-1)
        self.bound = min(max(BOUND, 10 * float(changes.median())), _LARGEST_BOUND)
        # a position that is not finite is compared, so that no weights are the policy
        self._kept = (changes <= self.bound / 10) | ~changes.isfinite()
        if self._kept.sum() < len(changes) / 2:
            self._kept = torch.ones_like(self._kept)
        self._policy = logprobs[self._kept]
        self._initial = self._initial_logprobs(policy, model)

    def _initial_logprobs(self, policy: Exportable, model: Any) -> Tensor | None:
        """Return the log-probs of the initial policy; None if the policy keeps no reference. `model` is changed."""
        if not policy.has_reference:
            return None
        if policy.reference is not None:
            weights = dict(_plain(model).named_parameters())  # the reference has these names
            for name, initial in policy.reference.named_parameters():
                weights[name].data.copy_(initial)
        with model.disable_adapter() if policy.reference is None else nullcontext():
            return self._logprobs(model)[self._kept]

    @torch.no_grad()
    def _logprobs(self, model: Any) -> Tensor:
        """Return log-probs [tokens, V] of a float32 model on the CPU. Each row is read alone, so nothing is padded."""
        rows = [model(input_ids=row[None], use_cache=False).logits[0].float() for row in self.rows]
        return torch.cat(rows).log_softmax(-1).clamp(min=_FLOOR)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are compared."""
        return len(self._policy)

    def distance(self, model: Any) -> Distance:
        """Return the distance of a loaded float32 model from the policy.

        Args:
            model: a transformers or peft model on the CPU.
        """
        logprobs = self._logprobs(model)[self._kept]
        if logprobs.shape != self._policy.shape:  # a vocabulary of another size
            return Distance(float("inf"), None, self.bound)
        difference = (logprobs - self._policy).abs().max()
        nats = float("inf") if difference.isnan() else float(difference)
        return Distance(nats, self._cosine(logprobs, nats), self.bound)

    def _cosine(self, logprobs: Tensor, nats: float) -> float | None:
        """Return the cosine of a `Distance` for log-probs that are `nats` from the policy's."""
        if self._initial is None:
            return None
        trained = (self._policy - self._initial).flatten()
        if trained.abs().max() <= _NOISE:  # nothing was trained, so that the distance alone decides
            return 1.0 if nats <= self.bound else 0.0
        # in float64: the sum over millions of log-probs is otherwise off in the third digit
        held = (logprobs - self._initial).flatten()
        return float(cosine_similarity(trained.double(), held.double(), dim=0))


def _plain(model: Any) -> Any:
    """Return the transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _drawn_rows(vocab_size: int) -> list[list[int]]:
    """Return rows of drawn token ids, of different lengths; the same in each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocab_size, (n,), generator=generator).tolist() for n in (4, 9, 16, 33)]


def export(policy: Exportable, folder: Path, held_out: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
    """Write the weights of a policy, and its adapter if it has one; return what was measured, as JSON values.

    Args:
        policy: the policy.
        folder: of the weights, which exists. The adapter is written to `adapter/`, and its base to `base/` if needed.
        held_out: token ids of contexts to compare on.

    Returns:
        `bound` and `tokens` of the comparison; `dtype`, `nats` and `cosine` of the weights; `reason` if they are not in
        the dtype of the base, or if config.json lost the id of padding; `adapter` with `nats` and `base`, if there is
        one.

    Raises:
        FaultError: the weights that were loaded back are another model's. Earlier weights in the folder remain.
    """
    measure = Measure(policy, held_out)
    measured: dict[str, Any] = {"bound": measure.bound, "tokens": measure.num_tokens, "held_out": bool(held_out)}
    for stale in ("adapter", "base"):  # of an earlier policy
        if not _is_source(folder / stale, policy):
            shutil.rmtree(folder / stale, ignore_errors=True)
    if policy.has_adapter:
        measured["adapter"] = _write_adapter(policy, folder, measure)
    measured |= _write_weights(policy, folder, measure)
    return measured


def _is_source(folder: Path, policy: Exportable) -> bool:
    """Return True for the folder that the policy's base was loaded from."""
    return bool(policy.lm.name_or_path) and folder.resolve() == Path(policy.lm.name_or_path).resolve()


# ---- the complete model ----


def _write_weights(policy: Exportable, folder: Path, measure: Measure) -> dict[str, Any]:
    """Write the merged weights in the base's dtype, or in float32 if the base's dtype loses something."""
    # written beside the weights of an earlier policy, which are replaced only by weights that were compared
    partial = folder / "tmp-weights"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        dtype, reason = _write_merged(policy, partial, measure)
        distance = measure.distance(_load(str(partial), policy))
        if not distance.is_policy and _remove_padding_id(partial):
            # Youtu sets the embedding of this id to zero whenever it is loaded, also after the row was trained
            distance = measure.distance(_load(str(partial), policy))
            reason = "; ".join(filter(None, (reason, "without pad_token_id, whose embedding is loaded as zero")))
        if not (distance.loses_nothing or (dtype == torch.float32 and distance.is_policy)):
            raise FaultError(
                f"'{folder}': expected weights within {measure.bound:.1g} nats of the policy, got weights that are off "
                f"by {distance}; they are not saved: use the last checkpoint, or the adapter if there is one"
            )
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    measured = {"dtype": str(dtype).removeprefix("torch."), "nats": distance.nats, "cosine": distance.cosine}
    return measured | ({"reason": reason} if reason else {})


def _write_merged(policy: Exportable, folder: Path, measure: Measure) -> tuple[torch.dtype, str]:
    """Write the merged weights; return their dtype, and the reason if it is not that of the base."""
    model = float32_copy(policy.model)
    lm = merge_adapters(model) if policy.has_adapter else model
    dtype, reason = torch.float32, ""
    # written before the weights are rounded in place, because another float32 model might not fit into memory
    lm.save_pretrained(folder)
    if policy.stored_dtype != torch.float32:
        cast_weights(lm, policy.stored_dtype)
        cast_weights(lm, torch.float32)
        distance = measure.distance(lm)
        if distance.loses_nothing:
            dtype = policy.stored_dtype
            cast_weights(lm, dtype)  # exact, because the weights were rounded to it before
            shutil.rmtree(folder)
            lm.save_pretrained(folder)
        else:
            word = str(policy.stored_dtype).removeprefix("torch.")
            reason = f"in {word} the weights would be off by {distance}"
    del model, lm
    gc.collect()  # peft models contain cycles, and loading the weights needs the memory
    return dtype, reason


def _remove_padding_id(folder: Path) -> bool:
    """Remove the ids of padding from config.json; return False if there are none. The tokenizer's files keep them."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    removed = [part.pop("pad_token_id", None) for part in (config, config.get("text_config") or {})]
    if removed == [None] * len(removed):
        return False
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return True


def _load(name: str, policy: Exportable, **settings: Any) -> Any:
    """Return a stored model on the CPU, its weights cast to float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, trust_remote_code=policy.options.trust_remote_code, **settings
    )


def _replace(source: Path, folder: Path) -> None:
    """Move the files of `source` to `folder`, in place of all weights that are there."""
    for old in (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"):
        old.unlink(missing_ok=True)
    for path in source.iterdir():
        path.replace(folder / path.name)


# ---- the adapter ----


def _write_adapter(policy: Exportable, folder: Path, measure: Measure) -> dict[str, Any]:
    """Write the adapter over the base that it was loaded from, or over a copy of it in `base/`.

    A copy is needed for a model from scratch, if the stored base is in another dtype than the frozen weights, and if it
    is in `folder`, where the merged weights replace it.
    """
    name = policy.lm.name_or_path
    own_base = str(folder / "base")
    source = str(Path(name).resolve()) if name and Path(name).is_dir() else name
    if _is_source(folder, policy):
        source = ""
    distance = None
    for base in filter(None, (source, own_base)):
        if base == own_base:
            _write_base(policy, folder / "base")
        config = policy.model.peft_config["default"]
        config.base_model_name_or_path = base if base != own_base else str((folder / "base").resolve())
        with hidden_peft_warnings():
            policy.model.save_pretrained(folder / "adapter")
        distance = _adapter_distance(policy, base, folder / "adapter", measure)
        if distance.is_policy:
            return {"base": config.base_model_name_or_path, "nats": distance.nats}
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "base", ignore_errors=True)
    return {"base": None, "nats": None, "reason": f"off by {distance} when it is loaded over its base; not saved"}


def _write_base(policy: Exportable, folder: Path) -> None:
    """Write the frozen weights without the adapter, in their own dtype."""
    with hidden_peft_warnings():
        lm = float32_copy(policy.model).unload()
    cast_weights(lm, policy.compute_dtype)
    lm.save_pretrained(folder)


def _adapter_distance(policy: Exportable, base: str, adapter: Path, measure: Measure) -> Distance:
    """Load a base and an adapter with peft, and return their distance."""
    from peft import PeftModel

    try:
        with hidden_peft_warnings():
            revision = None if Path(base).is_dir() else policy.model.peft_config["default"].revision
            lm = _load(base, policy, revision=revision)
            model = PeftModel.from_pretrained(lm, adapter, torch_device="cpu")
    except Exception:  # a base that has moved, was resized or whose configuration was repaired fails in many ways
        return Distance(float("inf"), None)
    return measure.distance(model)
