"""A policy around any transformers decoder, with adapters or full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.add import add_adapter
from rlalign.policies.adapter_kinds.dora import reset_magnitudes
from rlalign.policies.adapter_kinds.virtual_tokens import virtual_tokens
from rlalign.policies.adapters import AdapterSource, attach
from rlalign.policies.base import DecodeState, Policy, TokenScores
from rlalign.policies.device import (
    compute_dtype,
    disable_cudnn_attention,
    disable_dropout,
    hidden_progress_bars,
    on_device,
)
from rlalign.policies.export import export
from rlalign.policies.export_tokenizer import as_transformers
from rlalign.policies.lora import merged_weights, not_adaptable, replace_base_weights
from rlalign.policies.model_copies import frozen_copy, second_backbone
from rlalign.policies.options import PolicyOptions
from rlalign.policies.path_check.prove import prove_paths
from rlalign.policies.path_check.verdict import Verdict
from rlalign.policies.quantized_base import quantize_base
from rlalign.policies.sampling.decoding_weights import DecodingWeights
from rlalign.policies.sampling.fast_decoder import FastDecoder, KVCache
from rlalign.policies.sampling.sampler import CachedPrefix
from rlalign.policies.saved import write_card, write_stop_ids
from rlalign.policies.scoring.backbone import Backbone, body_of
from rlalign.policies.scoring.paths import Paths
from rlalign.policies.scoring.token_scores import score_actions
from rlalign.policies.value_head import ValueHead, state_values
from rlalign.policies.weight_dtype import cast_weights
from rlalign.types import Sampling, Tokenizer

_VALUE_HEAD = "value_head.safetensors"
_VALUE_BODY = "value_body.safetensors"


class CausalPolicy(Policy):
    """A causal language model with adapters or full fine-tuning, optional values and a frozen reference.

    A value model is a second body, initially a copy of the policy's, with a head. Frozen weights are shared. With
    adapters a value model costs adapters of its own; with full fine-tuning it costs the weights again, and their
    gradients.

    Args:
        lm: a transformers `...ForCausalLM` on the CPU. The policy owns and changes it.
        tokenizer: the meaning of the token ids.
        options: adapter (an open kind counts as none here), precision, values.
        seed: of the initial values of the adapters.
        device: device of the parameters.
        keep_reference: keep a frozen copy of the weights that train: of all of them in full fine-tuning, of the adapter
            if one is continued. New adapters need no copy: the model without them is the reference. A policy without a
            reference is not trained, so that its gradient is not checked.
        adapter: of the folder that is continued; `lm` is its base. None: a new adapter, or full fine-tuning.
        stored_dtype: dtype of the base's files, which `save_pretrained` keeps if nothing is lost by it.
        frozen: no weight is trained, and all are stored in the compute dtype; for a teacher.
    """

    def __init__(
        self,
        lm: Any,
        tokenizer: Tokenizer,
        *,
        options: PolicyOptions,
        seed: int = 0,
        device: torch.device | str = "cpu",
        keep_reference: bool = True,
        adapter: AdapterSource | None = None,
        stored_dtype: torch.dtype = torch.float32,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        device = torch.device(device)
        self.tokenizer = tokenizer
        self.options = options
        self._compute = compute_dtype(options.dtype, device)
        self.stored_dtype = stored_dtype
        chosen = options.adapter.resolved()
        self._has_adapter = chosen.is_trained
        self._is_new = adapter is None
        rounds = self._has_adapter or frozen
        self._mixed = self._compute != torch.float32 and not rounds
        if hasattr(lm.config, "rescale_every"):
            lm.config.rescale_every = 0  # RWKV divides its weights in place for inference in float16
        # Padding is identified by masks. An embedding with a padding_idx would never train that id, which may be EOS.
        lm.get_input_embeddings().padding_idx = None
        # What the library froze (sinusoid tables, correction biases of routers) stays frozen. peft freezes everything:
        # a model with merged adapters would have nothing left to train.
        if rounds or not any(p.requires_grad for p in lm.parameters()):
            lm.requires_grad_(not rounds)
        # With adapters the frozen weights are stored in the compute dtype. Trained parameters are float32 always.
        cast_weights(lm, self._compute if rounds else torch.float32)
        skipped = [] if options.base == "none" else not_adaptable(lm)
        if adapter is not None:
            self.model = attach(lm, adapter)
        else:
            self.model = add_adapter(lm, chosen, seed) if self._has_adapter else lm
        if options.base != "none":
            quantize_base(lm, options.base, skipped)
            if adapter is None:
                reset_magnitudes(self.model)  # of the quantized weights
        if frozen:
            self.model.requires_grad_(False)
        disable_dropout(self.model)  # an adapter of a folder may bring dropout of its own
        self.value_head: ValueHead | None = None
        self.to(device)
        disable_cudnn_attention(device)
        self.eval()
        self._lm = (lm,)  # in a tuple, because the module tree holds it already as part of self.model
        if options.gradient_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        self.virtual = virtual_tokens(self.model, body_of(lm))
        with on_device(device):
            self.path_verdict = self._prove_paths(lm, trains=keep_reference)
        self.path_summary = self.path_verdict.summary
        self._backbone = Backbone(lm, self.path_verdict.paths, self.virtual)
        if options.value != "none":
            with on_device(device):
                width = self._backbone.width()
            self.value_head = ValueHead(width, detached=options.value_detached).to(device)
        self._decoding = DecodingWeights(lm, self._backbone, self._compute)
        self.value_body: nn.Module | None = None
        if options.value == "model":
            self._value_backbone = second_backbone(lm, self._backbone.paths)
            self.value_body = self._value_backbone.body
        # a new adapter can be disabled; one that is continued, and virtual tokens, belong to the initial policy
        self._disables_adapter = self.has_new_adapter and self.virtual is None
        self.reference: nn.Module | None = None
        if keep_reference and self.virtual is not None:
            initial = self.virtual.frozen()
            self.reference = initial.encoder
            self._reference_backbone = Backbone(lm, self._backbone.paths, initial)
        elif keep_reference and not self._disables_adapter:
            self.reference = frozen_copy(lm, self._compute)
            self._reference_backbone = Backbone(self.reference, self._backbone.paths)

    def _prove_paths(self, lm: Any, *, trains: bool) -> Verdict:
        """Return the paths of the model; with dtype auto, in float32 if it has none in a lower precision."""
        try:
            return self._prove(lm, trains=trains)
        except UserError:
            if self.options.dtype != "auto" or self._compute == torch.float32:
                raise
        self._compute, self._mixed = torch.float32, False
        self.model.to(torch.float32)
        return self._prove(lm, trains=trains)

    def _prove(self, lm: Any, *, trains: bool) -> Verdict:
        return prove_paths(
            self.model, lm, dtype=self._compute, autocast=self._autocast, trains=trains, virtual=self.virtual
        )

    # ---- properties ----

    @property
    def lm(self) -> Any:
        """The transformers model, with its adapters."""
        return self._lm[0]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Format that log-probs are computed in."""
        return self._compute

    @property
    def has_adapter(self) -> bool:
        """True if an adapter is trained over frozen weights; else all weights are trained."""
        return self._has_adapter

    @property
    def has_new_adapter(self) -> bool:
        """True if the adapter began with this policy, and is not that of a folder."""
        return self._has_adapter and self._is_new

    @property
    def packs(self) -> bool:
        """True if rows are scored without padding; see `SupportsPacking`. `lm.set_attn_implementation("sdpa")` turns
        it off."""
        return self._backbone.packs

    @property
    def paths(self) -> Paths:
        """How rows are scored and contexts decoded; proven when the policy was built."""
        return self._backbone.paths

    @property
    def max_positions(self) -> int | None:
        """Largest number of tokens of a context; None without a limit."""
        return self._backbone.max_positions

    @property
    def has_values(self) -> bool:
        """True with a value head."""
        return self.value_head is not None

    @property
    def has_reference(self) -> bool:
        """True with new adapters that can be disabled, or with a frozen copy."""
        return self._disables_adapter or self.reference is not None

    def input_embeddings(self) -> Tensor:
        """Return the current input embeddings, [V, d], without gradient."""
        weight: Tensor = self.lm.get_input_embeddings().weight
        return weight.detach()

    # ---- scoring ----

    def _score(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling, *, entropy: bool, values: bool
    ) -> TokenScores:
        head = self.value_head if values and self.value_body is None else None
        tokens, lengths, action_mask = tokens.cpu(), lengths.cpu(), action_mask.cpu()
        with self._autocast():
            scores = _score_with(
                self._backbone, tokens, lengths, action_mask, sampling, entropy=entropy, value_head=head
            )
            if values and self.value_body is not None and self.value_head is not None:
                states, final = self._value_backbone.states(tokens, lengths, action_mask, with_final=True)
                assert final is not None
                action_values, final_values = state_values(self.value_head, states, final, action_mask)
                scores = replace(scores, values=action_values, final_values=final_values)
        return scores

    def _reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        backbone = self._backbone if self._disables_adapter else self._reference_backbone
        with self.model.disable_adapter() if self._disables_adapter else nullcontext():
            return _score_with(backbone, tokens.cpu(), lengths.cpu(), action_mask.cpu(), sampling).logprobs

    def _autocast(self) -> AbstractContextManager[Any]:
        """Cast float32 master weights to bfloat16 for each matrix product, in full fine-tuning in bfloat16."""
        return torch.autocast(self.device.type, dtype=self._compute) if self._mixed else nullcontext()

    # ---- decoding ----

    def begin_rollout(self) -> None:
        """Invalidate the decoding weights; see `DecodingWeights`."""
        self._decoding.invalidate()

    @property
    def decoding_lm(self) -> Any:
        """A transformers model of the sampling distribution, with the current weights."""
        return self._decoding.lm

    @property
    def fast_decoder(self) -> FastDecoder | None:
        """The optimized decoder; None if it does not support the model."""
        return self._decoding.fast_decoder

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once and repeat it; see `Policy.prefill`.

        Args:
            contexts: token ids of each context.
            repeats: copies of each context, in order.

        Returns:
            A key-value cache of Σ repeats rows, and the float32 logits [Σ repeats, V] of the next token.
        """
        self._decoding.update()
        decoder = self._decoding.decoder
        rows = torch.arange(len(contexts)).repeat_interleave(torch.as_tensor(repeats)).to(self.device)
        # the head runs once per context, before the rows are repeated
        if isinstance(decoder, FastDecoder):
            hidden, cache = decoder.read(contexts, self.device)
            logits = decoder.head(hidden).float()[rows]
            if len(rows) > len(contexts):
                cache.select(rows)
            return cache, logits
        hidden, state = decoder.read(contexts, repeats)
        return state, decoder.head(hidden).float()[rows]

    @torch.no_grad()
    def extend_cache(self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]) -> tuple[KVCache, Tensor]:
        """Read the part of each context that is not cached; only valid if `fast_decoder` is not None.

        Args:
            contexts: token ids of n contexts.
            cached: a cached beginning of each context.

        Returns:
            The cache of n rows and the float32 logits [n, V] of the next token.
        """
        decoder = self._decoding.fast_decoder
        assert decoder is not None
        hidden, cache = decoder.extend_cache(contexts, decoder.restore(contexts, cached))
        return cache, decoder.head(hidden).float()

    @torch.no_grad()
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each of the n rows and return the float32 logits [n, V] of the next token.

        Args:
            state: of `prefill` or `extend_cache`, changed in place.
            tokens: int64 [n], on the policy's device.
        """
        decoder: Any = self._decoding.decoder
        logits: Tensor = decoder.head(decoder.advance(state, tokens))
        return logits.float()

    # ---- files ----

    def save_pretrained(self, folder: Path, held_out: Sequence[Sequence[int]] = ()) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, load it, and compare it with the policy.

        It holds the merged weights (safetensors) and the tokenizer. They are in the base's dtype if that keeps the
        policy and its change from the initial policy, else in float32. Adapters are in `adapter/`, in float32, and
        their base weights in `base/` if no other folder gives the adapter's model. The value head and the merged value
        body are written if they exist. `policy.json` holds the distances; see `rlalign.policies.export`.

        Args:
            folder: is made if it does not exist.
            held_out: token ids of contexts to compare on; drawn ids if there are none.

        Raises:
            FaultError: the weights that were loaded back are another model's. Earlier weights in the folder remain.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with hidden_progress_bars():
            measured = export(self, folder, held_out)
        quantization = measured.get("adapter", {}).get("quantization")
        own = {"quantization": quantization} if quantization and self.virtual is not None else {}
        self._write_tokenizer(folder, measured=measured, **own)
        write_stop_ids(folder, self.tokenizer)
        for part in (folder / "adapter", folder / "base"):
            if part.is_dir():
                entries = {"quantization": quantization} if quantization and part.name == "adapter" else {}
                self._write_tokenizer(part, **entries)
                write_stop_ids(part, self.tokenizer)
        for name in (_VALUE_HEAD, _VALUE_BODY):  # a file of an earlier policy would be loaded as this policy's
            (folder / name).unlink(missing_ok=True)
        if self.value_head is not None:
            weights = {name: p.detach().cpu().contiguous() for name, p in self.value_head.state_dict().items()}
            save_file(weights, folder / _VALUE_HEAD)
        if self.value_body is not None:
            save_file(merged_weights(self.value_body), folder / _VALUE_BODY)

    def _write_tokenizer(self, folder: Path, **entries: Any) -> None:
        """Write the card, with these entries, and the tokenizer in transformers' format."""
        write_card(folder, "causal", self.tokenizer, vocab_size=self._backbone.vocab_size, **entries)
        exported = as_transformers(self.tokenizer)
        if exported is not None:
            exported.save_pretrained(folder)

    def load_value(self, folder: Path) -> None:
        """Load the value that `save_pretrained` wrote if it is of this policy's kind; else keep the initial value.

        Args:
            folder: the policy folder.
        """
        if self.value_head is None or saved_value(folder) != self.options.value:
            return
        self.value_head.load_state_dict(load_file(folder / _VALUE_HEAD, device=str(self.device)))
        if self.value_body is not None:
            replace_base_weights(self.value_body, load_file(folder / _VALUE_BODY, device=str(self.device)))


def saved_value(folder: Path) -> Literal["none", "head", "model"]:
    """Return the kind of value in a policy folder."""
    if not (folder / _VALUE_HEAD).is_file():
        return "none"
    return "model" if (folder / _VALUE_BODY).is_file() else "head"


def _score_with(
    backbone: Backbone,
    tokens: Tensor,
    lengths: Tensor,
    action_mask: Tensor,
    sampling: Sampling,
    *,
    entropy: bool = False,
    value_head: ValueHead | None = None,
) -> TokenScores:
    """Score tokens on the CPU by a backbone, with values if a head is passed."""
    states, final = backbone.states(tokens, lengths, action_mask, with_final=value_head is not None)
    return score_actions(
        states,
        final,
        tokens,
        action_mask,
        sampling,
        scorer=backbone.head.score,
        entropy=entropy,
        value_head=value_head,
    )
