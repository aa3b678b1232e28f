"""The export of a run: written, loaded back by its own loader, compared with the live policy, and only then named."""

from __future__ import annotations

import platform
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import FaultError, UserError
from rlalign.escaping.shareable import shareable_spec, shareable_values
from rlalign.export.drop_layers import parse_count, pruned_probe, write_without_layers
from rlalign.export.engine import Engine
from rlalign.export.export_card import finish_card
from rlalign.export.fidelity import Fidelity, Probe, make_probe
from rlalign.export.forms import Form, check_form, find_form
from rlalign.export.hf_writer import copy_adapter, copy_companions, write_hf
from rlalign.export.prompt_check import check_text
from rlalign.export.source import Source, model_type, open_source, policy_folder
from rlalign.export.transformers_engine import TransformersEngine
from rlalign.export.whole_folder import check_target, new_folder, write_manifest
from rlalign.policies.device import hidden_progress_bars
from rlalign.policies.lora import hidden_peft_warnings
from rlalign.publish.shareable_files import shared_base
from rlalign.types import Prompt

_SIZE = re.compile(r"[1-9]\d*[KMGT]B")
"""Sizes that transformers reads; it takes 5gb for bits."""
_PROMPTS = 8
_MAX_NEW = 32
"""Held-out prompts, and tokens per completion, on which a form is compared with the policy."""


@dataclass(frozen=True, slots=True)
class Export:
    """A policy in a form that another engine loads.

    Attributes:
        folder: the folder that was written.
        form: its form.
        fidelity: its distance from the policy.
        path: what the loader is given: the folder, or the GGUF file in it.
        manifest: the content of export.json without the files.
    """

    folder: Path
    form: Form
    fidelity: Fidelity
    path: Path
    manifest: dict[str, Any]

    @property
    def line(self) -> str:
        """One line about the export."""
        return f"exported {self.form.name} to {self.folder}: {self.distance}"

    @property
    def distance(self) -> str:
        """The distance from the policy in words."""
        f = self.fidelity
        dropped = self.manifest.get("dropped")
        cost, exact = "", "KL"
        if dropped is not None:
            kl = self.manifest["cost_of_dropping"]["kl"]
            layers = ", ".join(map(str, dropped["layers"]))
            plural = "s" * (len(dropped["layers"]) > 1)
            cost = f"without layer{plural} {layers} of {dropped['of']} (counted from 0), at {kl:.2g} nats per token; "
            exact = "the file against the pruned policy: KL"
        return (
            f"{cost}{exact} {f.kl:.2g} nats per token{'' if cost else ' from the policy'}; largest "
            f"difference of a log-prob {f.nats:.2g}, same best token at {100 * f.agreement:.0f} % of {f.positions} "
            f"positions (loaded by {self.form.loader})"
        )


def export_run(
    run: Path,
    config: TrainConfig,
    output: Path,
    *,
    format: str = "hf",
    quantize: str = "",
    max_shard_size: str = "5GB",
    kl_bound: float | None = None,
    drop_layers: str = "",
    env: TextMDP | None = None,
    rewards: Any = None,
    report: Callable[[str], None] = lambda line: None,
) -> Export:
    """Export the policy of a run in one form.

    Args:
        run: the run folder.
        config: its configuration.
        output: the folder to write, which must not hold files.
        format: hf or gguf.
        quantize: type of the weights; "" for the format's own.
        max_shard_size: largest weight file of the format hf.
        kl_bound: nats per token in place of the bounds of the form; None: these.
        drop_layers: auto or a number: removes whole layers first, and then compares with the policy without them; "":
            none.
        env, rewards: objects that the run was trained with and that no name rebuilds.
        report: called with a line before each stage.

    Raises:
        UserError: the form is unknown, or this machine or the model does not support it; the output holds files.
        FaultError: the file that was loaded back is not the policy within its bound. Nothing is left.
    """
    form = find_form(format, quantize)
    if kl_bound is not None and not kl_bound > 0:
        raise UserError(f"--kl-bound: expected nats per token above 0, got {kl_bound:g}; use 0.1, for example")
    if not _SIZE.fullmatch(max_shard_size):
        raise UserError(f"--max-shard-size: expected a size such as 5GB or 500MB, got '{max_shard_size}'; use 5GB")
    check_target(output)
    check_form(form, model_type(policy_folder(run)))
    count = parse_count(drop_layers) if drop_layers else None
    report("loading the policy, and generating on held-out prompts")
    source = open_source(run, config, env=env, rewards=rewards)
    tasks = source.tasks("test", _PROMPTS)
    probe = make_probe(source.policy, source.contexts(tasks), max_new=_MAX_NEW, seed=config.seed)
    prompts = source.prompts(tasks)
    bounds: dict[str, Any] = {"max_shard_size": max_shard_size, "kl_bound": kl_bound, "report": report}
    if not drop_layers:
        return export_folder(source, source.folder, output, form, probe, prompts, **bounds)
    with tempfile.TemporaryDirectory(prefix="rlalign-pruned-") as folder:
        report("choosing the layers to remove")
        dropped = write_without_layers(source, Path(folder), count)
        pruned, cost = pruned_probe(probe, Path(folder))
        entries = {"dropped": asdict(dropped), "cost_of_dropping": cost.to_dict()}
        return export_folder(source, Path(folder), output, form, pruned, prompts, entries=entries, **bounds)


def export_folder(
    source: Source,
    weights: Path,
    output: Path,
    form: Form,
    probe: Probe,
    prompts: list[Prompt],
    *,
    max_shard_size: str = "5GB",
    kl_bound: float | None = None,
    entries: dict[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Export:
    """Write a folder in one form, load it back, compare it, and name it.

    Args:
        source: the run.
        weights: folder of transformers to export: `policy/` of the run, or one with fewer layers.
        output: the folder to write.
        form: the form.
        probe: log-probs of the model in `weights` on held-out tokens.
        prompts: held-out prompts, on which the tokens of llama.cpp are compared.
        max_shard_size, kl_bound: as in `export_run`.
        entries: further entries of the manifest.
        report: called with a line before each stage.

    Raises:
        FaultError: the file that was loaded back is not the model within its bound. Nothing is left.
    """
    with new_folder(output) as partial:
        report(f"writing {form.name}")
        path = write_form(weights, partial, form, name=source.run.resolve().name, max_shard_size=max_shard_size)
        manifest: dict[str, Any] = {"form": form.name, **_origin(source), **(entries or {})}
        context = max(map(len, probe.rows)) + 8
        report(f"loading it with {form.loader} in a fresh process")
        with Engine(path, form.loader, dtype="auto" if form.quantize else "float32", context=context) as engine:
            report("comparing it with the policy")
            fidelity = probe.compare(engine.logprobs(probe.rows, probe.positions))
            excess = fidelity.excess(form, kl_bound)
            if excess:
                raise FaultError(
                    f"'{output}': expected {form.name} within its bound of the policy, got {excess}; nothing was "
                    "written: use another form, or --kl-bound NATS"
                )
            if form.format == "gguf" or (partial / "tokenizer_config.json").is_file():  # transformers can express it
                manifest["tokenizer"] = check_text(engine, source.policy.tokenizer, prompts)
        if fidelity.is_far:
            warnings.warn(
                f"{form.name} is {fidelity.kl:.2g} nats per token from the policy, with the same best token at "
                f"{100 * fidelity.agreement:.0f} % of the positions; measure the reward with --compare, or use "
                "another form",
                stacklevel=2,
            )
        manifest["fidelity"] = fidelity.to_dict()
        manifest["bound"] = {"kl": kl_bound or form.kl_bound, "nats": None if kl_bound else form.nats_bound}
        if form.name == "hf" and weights == source.folder:
            if source.policy.has_adapter:
                report("comparing the adapter, loaded with peft over its base")
            adapter = _adapter(source, partial, output, probe)
            if adapter is not None:
                manifest["adapter"] = adapter
        export = Export(output, form, fidelity, output / path.relative_to(partial), manifest)
        base = str(manifest.get("adapter", {}).get("base") or "")
        finish_card(partial, form, path, base, f"Exported as {form.name}: {export.distance}.")
        write_manifest(partial, manifest)
    return export


def write_form(weights: Path, folder: Path, form: Form, *, name: str, max_shard_size: str = "5GB") -> Path:
    """Write a form into a folder without measuring it; return what its loader is given.

    Args:
        weights: folder of transformers.
        folder: the folder to write, which exists.
        form: the form.
        name: stem of a GGUF file.
        max_shard_size: largest weight file of the format hf.
    """
    if form.format == "gguf":
        from rlalign.export.gguf_writer import write_gguf

        path = folder / f"{name}-{form.quantize}.gguf"
        unexpressed = write_gguf(weights, path, form, name).unexpressed
        if unexpressed:
            warnings.warn(
                f"'{path.name}': GGUF has entries for two tokens that end a turn; pass the ids "
                f"{', '.join(map(str, unexpressed))} to llama.cpp as further stops, unless it knows them by name",
                stacklevel=2,
            )
        copy_companions(weights, folder, only_card=True)
        return path
    if form.quantize:
        from rlalign.export.torchao_writer import write_torchao

        write_torchao(weights, folder, form, max_shard_size)
    else:
        write_hf(weights, folder, max_shard_size)
    return folder


def _adapter(source: Source, folder: Path, final: Path, probe: Probe) -> dict[str, Any] | None:
    """Copy the adapter, load it with peft and return its distance; None without one.

    An adapter that was trained over quantized weights is the policy over these, and another model over the base as it
    is. Both distances are returned.
    """
    copied = copy_adapter(source.folder, folder, final)
    if copied is None:
        return None
    adapter, base = copied
    kind = source.policy.options.base
    has_own_base = (folder / "base").is_dir()  # with the dequantized weights
    quantized = None
    if kind != "none" and not has_own_base:
        quantized = (kind, str(source.policy.compute_dtype).removeprefix("torch."))
    with Engine(base, "transformers", adapter=adapter, base=quantized) as engine:
        fidelity = probe.compare(engine.logprobs(probe.rows, probe.positions))
    excess = fidelity.excess(find_form("hf", ""))
    if excess:
        raise FaultError(
            f"'{final}': expected the adapter over '{base}' to be the policy, got {excess}; the base may have changed "
            "since the training: restore it, or use --format gguf, which has no adapter"
        )
    entries: dict[str, Any] = {"base": shared_base(base, folder), **fidelity.to_dict()}
    if quantized is not None:
        with hidden_progress_bars(), hidden_peft_warnings():
            plain = probe.compare(probe.with_model(TransformersEngine(base, str(adapter), "float32").model).logprobs)
        entries |= {"quantization": kind, "over_plain_base": plain.to_dict()}
    return entries


def _origin(source: Source) -> dict[str, Any]:
    """Return the entries about the run and the programs that wrote the export."""
    versions = {}
    for name in ("rlalign", "torch", "transformers", "peft", "gguf", "torchao", "xllamacpp"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # not needed for every form
            continue
    return {
        "run": source.run.resolve().name,
        "policy": shareable_spec(source.config.policy),
        "environment": shareable_values(source.mdp.id),
        "compared_with": "the live policy" if source.is_live else "policy/",
        "machine": platform.machine(),
        "versions": versions,
    }
