"""The proof of the paths of a model, or the stored verdict of an earlier proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.virtual_tokens import VirtualTokens
from rlalign.policies.lora import adapted_weight
from rlalign.policies.model_files import described
from rlalign.policies.path_check import measure
from rlalign.policies.path_check.rows import ProofRows, proof_rows
from rlalign.policies.path_check.verdict import Trial, Verdict, cpu_capability, digest, load, path_name, store
from rlalign.policies.sampling.decoding_weights import DecodingWeights
from rlalign.policies.sampling.fast_decoder import FastDecoder, is_supported
from rlalign.policies.sampling.library_decoder import LibraryDecoder
from rlalign.policies.scoring.attention import ATTENTION_NAME, register
from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.scoring.linear import restore_classes, speed_up
from rlalign.policies.scoring.paths import Decoding, Paths, RowOperation, Scoring

_EXACT = 1e-4
"""Largest difference of a log-prob in float32, relative to 1 + |log-prob|, that rounding explains. Right paths of tiny
models of all architectures of transformers 5.23 differ by 5e-7 in the median and 4e-6 at the 99th percentile; SmolLM2
by 2e-5."""
_TOLERABLE = 1e-3
"""The same for models that have no path within `_EXACT`: rounding grows with the number of layers."""
_ROUNDING = 0.03
"""Mean difference in nats per token in bfloat16 that rounding explains in any case; else three times that of plain
rows in bfloat16."""
_OPERATIONS = 3e10
"""Parameters times tokens of the rows on a CPU, so that a proof takes seconds."""
_FASTER_ON_CUDA = 30
_LONGEST = 2048
"""Tokens of all rows at most, for the smallest models."""

_NOT_OF_A_PATH = (MemoryError, TimeoutError, torch.OutOfMemoryError)
"""Errors of the machine, which say nothing about a path and must not be stored."""
_IN_FLOAT32 = "use --model.dtype float32"
_SCORING: tuple[Scoring, ...] = ("packed", "padded", "equal", "alone")
_DECODING: tuple[tuple[Decoding, RowOperation], ...] = (
    ("padded", "select"),
    ("padded", "reorder"),
    ("equal", "select"),
    ("equal", "reorder"),
    ("equal", "keep"),
    ("reread", "keep"),
)


def prove_paths(
    model: nn.Module,
    lm: Any,
    *,
    dtype: torch.dtype,
    autocast: Callable[[], AbstractContextManager[Any]],
    trains: bool = True,
    stored: bool = True,
    virtual: VirtualTokens | None = None,
) -> Verdict:
    """Return the fastest paths of a model that agree with plain forward passes of each row alone.

    Each path is compared in float32 and in the compute dtype, on ragged rows that cross the lengths that the
    configuration names. A model whose earlier logits depend on later tokens, or whose gradient is not finite, is
    refused. The modules and the attention of the model are left as the paths need them.

    Args:
        model: the model with its adapters, or `lm`.
        lm: the transformers model inside.
        dtype: the compute dtype.
        autocast: returns the context of forward passes in the compute dtype.
        trains: compute the gradient, and refuse a model whose gradient is not finite.
        stored: take the verdict of an earlier proof of an equal configuration, and store this one.
        virtual: virtual tokens of the adapter. Plain forward passes are then those of peft's model.

    Raises:
        UserError: no path of the model is right.
    """
    trained = sum(p.requires_grad for p in model.parameters()) if trains else 0
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in lm.modules())
    settings = {"dtype": str(dtype), "trained": trained, "adapters": model is not lm, "checkpointing": checkpointing}
    settings |= {} if virtual is None else {"virtual": virtual.kind, "tokens": virtual.count}
    key = digest(lm, **settings, device=cpu_capability(lm)) if stored else None
    verdict = load(key)
    if verdict is None:
        with torch.enable_grad():
            verdict = _Proof(model, lm, dtype, autocast, trains, virtual).run()
        if not verdict.refusal:  # its cause may be the weights, or the machine, which have no part in the key
            store(key, verdict)
    if verdict.refusal:
        raise UserError(verdict.refusal)
    _prepare(model, lm, verdict.paths)
    return verdict


def _prepare(model: nn.Module, lm: Any, paths: Paths) -> None:
    """Set the modules and the attention that paths need."""
    if not paths.stock:
        speed_up(model)
    if paths.scoring == "packed":
        register()
        lm.set_attn_implementation(ATTENTION_NAME)


class _Failed(Exception):
    """A path is not used, for a reason, against which the advice may help."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


def _advice(advice: str) -> str:
    """Return advice for a refused model, of which another architecture is the last resort."""
    return f"{advice}, or another architecture" if advice else "use another architecture"


@dataclass
class _Proof:
    """The state of a proof.

    Attributes:
        model, lm, dtype, autocast, trains, virtual: as for `prove_paths`.
        trials: paths tried so far.
        rounded_noise: see `_decoding_noise`; None before it is needed.
    """

    model: nn.Module
    lm: Any
    dtype: torch.dtype
    autocast: Callable[[], AbstractContextManager[Any]]
    trains: bool
    virtual: VirtualTokens | None = None
    trials: list[Trial] = field(default_factory=list)
    rounded_noise: float | None = None

    def run(self) -> Verdict:
        """Try all paths in order of speed, with fast modules and then with those of the libraries."""
        family = type(self.lm).__name__
        backbone = self._backbone()
        self.plain = self.lm if self.virtual is None else self.model
        self.rows = self._rows(backbone)
        self.switch = backbone.switch
        paths = Paths(proven=self.rows.proven)
        try:
            self._measure_plain()
        except _Failed as failed:
            refusal = f"expected a causal language model, got '{family}': {failed.reason}; {_advice(failed.advice)}"
            return Verdict(paths, (), refusal)
        for stock in (False, True):
            originals = [] if stock else speed_up(self.model)
            try:
                chosen = self._choose(replace(paths, stock=stock))
            except _Failed as failed:
                refusal = str(failed)
            else:
                return Verdict(chosen, tuple(self.trials))
            finally:
                self._set_attention("sdpa")
                restore_classes(originals)
        advice = ""
        if self.dtype != torch.float32 and any(t.float32 is not None and t.float32 <= _TOLERABLE for t in self.trials):
            advice = _IN_FLOAT32
        elif "is not finite" in refusal and self.model is self.lm:
            advice = "use --model.adapter.kind lora"
        refusal = f"expected log-probs of '{family}' as of plain rows, got {refusal}; {_advice(advice)}"
        return Verdict(paths, tuple(self.trials), refusal)

    def _backbone(self, paths: Paths | None = None) -> Backbone:
        return Backbone(self.lm, paths, self.virtual)

    def _rows(self, backbone: Backbone) -> ProofRows:
        parameters = sum(p.numel() for p in self.lm.parameters())
        operations = _OPERATIONS * (_FASTER_ON_CUDA if backbone.device.type == "cuda" else 1)
        budget = int(min(_LONGEST, operations / max(1, parameters)))
        config = self.lm.config.get_text_config()
        return proof_rows(config, backbone.vocab_size, budget=budget, limit=backbone.max_positions)

    def _measure_plain(self) -> None:
        """Measure plain rows in float32 and in the compute dtype; refuse models that are not causal."""
        with measure.with_random_adapters(self.model):
            with measure.in_float32(self.lm):
                weights = self._some_weights()
                try:
                    self.expected = measure.plain_logprobs(self.plain, self.rows, self.switch)
                    change = measure.change_of_earlier_logprobs(self.plain, self.rows, self.expected)
                except _NOT_OF_A_PATH:
                    raise
                except Exception as error:
                    raise _Failed(f"a forward pass of token ids alone fails ({described(error)})") from error
                if not all(torch.isfinite(logprobs).all() for logprobs in self.expected.values()):
                    raise _Failed("its logits are not finite", "use finite weights")
                if not torch.equal(weights, self._some_weights()):
                    raise _Failed("a forward pass changes its weights")
                self.stable = measure.stable_positions(self.lm, self.rows, self.switch, self.expected, self.plain)
                if change > _TOLERABLE:
                    bidirectional = not getattr(self.lm.config.get_text_config(), "is_decoder", True)
                    advice = "set is_decoder to true in its config.json" if bidirectional else ""
                    raise _Failed("a later token changes earlier logits", advice)
            self.noise = 0.0
            if self.dtype != torch.float32:
                buffers = {name: buffer.dtype for name, buffer in self.lm.named_buffers()}
                try:
                    with self.autocast():
                        plain = measure.plain_logprobs(self.plain, self.rows, self.switch, (0, 2))
                except _NOT_OF_A_PATH:
                    raise
                except Exception as error:
                    raise _Failed(f"a forward pass in {self.dtype} fails ({described(error)})", _IN_FLOAT32) from error
                for name, buffer in self.lm.named_buffers():
                    if buffer.dtype != buffers[name]:  # the policy would be another one than its saved weights
                        raise _Failed(f"a forward pass rounds '{name}' to {self.dtype}", _IN_FLOAT32)
                self.noise = measure.mean_difference(self.expected, plain, self.rows)

    @torch.no_grad()
    def _some_weights(self) -> Tensor:
        """Return some entries of each parameter: enough to see that a forward pass scales or updates them.

        They are in the order of the names, because peft registers adapted experts again in each forward pass.
        """
        weights = (parameter for _, parameter in sorted(self.lm.named_parameters()))
        return torch.cat([p.flatten()[:: max(1, p.numel() // 64)].float() for p in weights])

    def _choose(self, paths: Paths) -> Paths:
        """Return the fastest paths that pass, with the modules as they are now."""
        with measure.with_random_adapters(self.model):
            paths = self._first("head", [replace(paths, head=head) for head in ("formula", "model")], self._try_head)
            layouts = [replace(paths, scoring=scoring) for scoring in _SCORING]
            paths = self._first("scoring", layouts, self._try_scoring)
            decodings = [replace(paths, decoding=decoding, rows=rows) for decoding, rows in _DECODING]
            if self.virtual is None and is_supported(self.lm):
                decodings.insert(0, replace(paths, decoding="optimized"))
            return self._first("decoding", decodings, self._try_decoding)

    def _first(
        self, kind: str, candidates: Sequence[Paths], attempt: Callable[[Paths], tuple[float, float | None]]
    ) -> Paths:
        """Return the first candidate whose differences are within the limits."""
        reasons = []
        tolerable: list[tuple[float, int, Paths]] = []
        for paths in candidates:
            name = path_name(kind, paths)
            exact = compute = None
            try:
                exact, compute = attempt(paths)
                noise = self._decoding_noise(compute) if kind == "decoding" else self.noise
                if compute is not None and compute > max(_ROUNDING, 3 * noise):
                    raise _Failed(f"{compute:.2g} nats from plain rows on average in {self.dtype}")
                if exact > _EXACT:
                    if exact <= _TOLERABLE:
                        tolerable.append((exact, len(self.trials), paths))
                    raise _Failed(f"{exact:.2g} nats from plain rows")
            except _NOT_OF_A_PATH:
                raise
            except Exception as error:
                # any error of a library that a path is not made for
                reason = str(error) if isinstance(error, _Failed) else described(error)
                self.trials.append(Trial(name, exact, compute, reason))
                reasons.append(f"{name}: {reason}")
                continue
            self.trials.append(Trial(name, exact, compute, ""))
            return paths
        if tolerable:
            _, index, paths = min(tolerable, key=lambda entry: entry[0])
            self.trials[index] = replace(self.trials[index], reason="")
            return paths
        raise _Failed("; ".join(reasons))

    def _decoding_noise(self, difference: float | None) -> float:
        """Return the mean difference of plain rows by the weights that decode, which full fine-tuning rounds.

        They need a copy of the model, so they are measured only for a difference that calls for it.
        """
        if difference is None or difference <= max(_ROUNDING, 3 * self.noise):
            return self.noise
        if self.rounded_noise is None:
            rounded = DecodingWeights(self.lm, self._backbone(), self.dtype).lm
            plain = measure.plain_logprobs(rounded, self.rows, self.switch)
            self.rounded_noise = max(self.noise, measure.mean_difference(self.expected, plain, self.rows))
        return self.rounded_noise

    def _try_head(self, paths: Paths) -> tuple[float, float | None]:
        """Compare the logits of body and head with those of the complete model, on a row alone."""
        backbone = self._backbone(paths)
        with torch.no_grad(), measure.in_float32(self.lm):
            largest = measure.largest_difference(self.stable, measure.single_row_logprobs(backbone, self.rows))
        if self.dtype == torch.float32 or largest > _TOLERABLE:
            return largest, None
        with torch.no_grad(), self.autocast():
            table = measure.single_row_logprobs(backbone, self.rows)
            return largest, measure.mean_difference(self.expected, table, self.rows)

    def _try_scoring(self, paths: Paths) -> tuple[float, float | None]:
        """Compare scores, and compute their gradient, which must be finite."""
        if paths.scoring == "packed":
            self._pack()
        else:
            self._set_attention("sdpa")
        backbone = self._backbone(paths)
        differences = self._compare(lambda: measure.scored_logprobs(backbone, self.rows))
        if self.trains and differences[0] <= _TOLERABLE:
            with self.autocast():
                self._check_gradient(backbone)
        return differences

    def _check_gradient(self, backbone: Backbone) -> None:
        """Raise _Failed if the gradient of the log-probs is not finite."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        logprobs = measure.target_logprobs(backbone, self.rows)
        gradients: Sequence[Any] = torch.autograd.grad(logprobs.sum(), list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None and not torch.isfinite(gradient).all():
                raise _Failed(f"the gradient of '{name}' is not finite")
        unused = [name for name, g in zip(trained, gradients, strict=True) if g is None and ".lora_A." in name]
        self._check_unused([name.partition(".lora_A.")[0] for name in unused], backbone)

    @torch.no_grad()
    def _check_unused(self, names: Sequence[str], backbone: Backbone) -> None:
        """Raise _Failed if the weight of a layer is read without calling the layer.

        Its adapter then has no effect until it is merged.

        Args:
            names: adapted layers that were not called.
            backbone: the backbone.
        """
        layers: list[Any] = [self.model.get_submodule(name) for name in names]
        weights = [adapted_weight(layer) for layer in layers]
        if not weights:
            return
        before = measure.single_row_logprobs(backbone, self.rows)
        originals = [weight.data for weight in weights]
        try:
            for weight in weights:
                weight.data = 2 * weight.data
            change = measure.largest_difference(before, measure.single_row_logprobs(backbone, self.rows))
        finally:
            for weight, data in zip(weights, originals, strict=True):
                weight.data = data
        if change > _TOLERABLE:
            raise _Failed(f"the model reads the weights of layers such as '{names[0]}' without their adapters")

    def _try_decoding(self, paths: Paths) -> tuple[float, float | None]:
        """Compare the log-probs of decoding."""
        backbone = self._backbone(paths)
        if paths.decoding in ("padded", "equal") and not backbone.has_cache:
            raise _Failed("the model has no cache")
        device = backbone.device

        def exact() -> measure.Table:
            decoder: FastDecoder | LibraryDecoder = LibraryDecoder(backbone)
            if paths.decoding == "optimized":
                decoder = FastDecoder(self.lm, torch.float32)
                decoder.refresh()
            return measure.decoded_logprobs(decoder, self.rows, device)

        def compute() -> measure.Table:
            weights = DecodingWeights(self.lm, backbone, self.dtype)
            weights.update()
            return measure.decoded_logprobs(weights.decoder, self.rows, device)

        return self._compare(exact, compute)

    def _compare(
        self,
        exact: Callable[[], measure.Table],
        compute: Callable[[], measure.Table] | None = None,
    ) -> tuple[float, float | None]:
        """Return the largest difference in float32 and the mean difference in the compute dtype.

        Args:
            exact: returns the log-probs in float32.
            compute: returns those in the compute dtype, under no autocast; `exact` under autocast by default.
        """
        with torch.no_grad():
            with measure.in_float32(self.lm):
                largest = measure.largest_difference(self.stable, exact())
            if self.dtype == torch.float32 or largest > _TOLERABLE:
                return largest, None
            if compute is not None:
                return largest, measure.mean_difference(self.expected, compute(), self.rows)
            with self.autocast():
                return largest, measure.mean_difference(self.expected, exact(), self.rows)

    def _pack(self) -> None:
        if self.lm.config.get_text_config()._attn_implementation != "sdpa":
            raise _Failed("the model does not use the attention 'sdpa' of transformers")
        register()
        self._set_attention(ATTENTION_NAME)

    def _set_attention(self, name: str) -> None:
        current = self.lm.config.get_text_config()._attn_implementation
        if current != name and ATTENTION_NAME in (current, name):
            self.lm.set_attn_implementation(name)
