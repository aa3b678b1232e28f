"""What each form of a policy costs: reward, KL, size, memory and speed, each form loaded by its own loader.

Forms are compared with the full policy on the same held-out prompts, with the sampling of the run. The unit of the
intervals is the prompt. Two KLs are given. KL(policy ‖ form) is exact over the vocabulary, at positions of completions
that the policy has sampled. KL(form ‖ policy) per completion is k1, the sum of log form - log policy over tokens that
the form has sampled: an unbiased estimate, which chance can make negative. It is infinite if a form has sampled a token
that the policy never draws, which top_k and top_p allow; then the number of such completions stands in its place.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlalign.config.schema import TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import FaultError, UserError
from rlalign.evaluation.before_after import paired_difference
from rlalign.evaluation.evaluate import RESERVED, Evaluation, evaluate, held_out_sizes, prompt_means
from rlalign.export.drop_layers import Dropped, parse_count, pruned_probe, write_without_layers
from rlalign.export.engine import Engine, EngineSampler
from rlalign.export.export_run import write_form
from rlalign.export.fidelity import Probe, make_probe
from rlalign.export.forms import FORMS, Form, find_form, obstacle
from rlalign.export.source import Source, model_type, open_source
from rlalign.policies.causal import CausalPolicy
from rlalign.storage.atomic import read_json, write_atomic
from rlalign.storage.jsonl import nullable
from rlalign.types import Sampling

RESULTS = "forms.json"
_LEFT_OUT = tuple(name for name in RESERVED if name != "reward")
"""Metrics of an evaluation that are no component of the reward."""
_MANY = 64
_COUNT = 32
"""Rows, and tokens per row, of the measurement of speed."""
_PROBE_PROMPTS = 8
_MAX_NEW = 32


class PolicyScorer:
    """The live policy as the distribution that a form's KL is measured to (`ReferenceScorer`)."""

    def __init__(self, policy: CausalPolicy) -> None:
        self._policy = policy

    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Return float32 [N, L], the policy's log-probs of the masked tokens."""
        with torch.no_grad():
            return self._policy.score(tokens, lengths, action_mask, sampling).logprobs


def compare_forms(
    run: Path,
    config: TrainConfig,
    *,
    prompts: int | None = None,
    samples: int | None = None,
    forms: Sequence[str] = (),
    drop_layers: str = "",
    env: TextMDP | None = None,
    rewards: Any = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure each form that this machine can make, and return the results, which `report/forms.json` of the run holds.

    A form that the file holds already, from the same prompts and settings, is not measured again.

    Args:
        run: the run folder.
        config: its configuration.
        prompts: held-out test prompts, at least 2; None: as in the configuration.
        samples: completions per prompt, at least 1; None: as in the configuration.
        forms: names of the forms; empty: all.
        drop_layers: auto or a number: adds the policy without whole layers, unquantized; "": does not.
        env, rewards: objects that the run was trained with and that no name rebuilds.
        report: called with a line before and after each form.

    Raises:
        UserError: the policy cannot be exported, a name is unknown, or a number is out of range.
    """
    prompts, samples = held_out_sizes(config, "test", prompts, samples)
    chosen = _chosen(forms)
    count = parse_count(drop_layers) if drop_layers else None
    report("loading the policy and its environment")
    source = open_source(run, config, env=env, rewards=rewards)
    settings = {
        "prompts": prompts, "samples": samples, "seed": config.seed, "weights": _weights_id(source),
        "machine": platform.machine(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    results = _stored(run, settings)
    comparison = _Comparison(source, prompts, samples)
    if "policy" not in results["forms"]:
        report("policy: generating and scoring the test prompts")
        results["forms"]["policy"] = comparison.policy_row()
        _store(run, results)
    full = results["forms"]["policy"]
    for form in chosen:
        if "unavailable" in results["forms"].get(form.name, {"unavailable": ""}):
            report(f"{form.name}: writing, then loading with {form.loader}, speed, KL and reward")
            results["forms"][form.name] = comparison.row(form, source.folder, comparison.probe, full)
            _store(run, results)
        report(f"{form.name}: {describe(results['forms'][form.name])}")
    if drop_layers:
        name = f"hf without layers ({drop_layers})"
        if "unavailable" in results["forms"].get(name, {"unavailable": ""}):
            report(f"{name}: choosing layers, writing, then loading with transformers, speed, KL and reward")
            results["forms"][name] = comparison.pruned_row(count, full)
            _store(run, results)
        report(f"{name}: {describe(results['forms'][name])}")
    return results


def describe(row: Mapping[str, Any]) -> str:
    """Return a row of the results as one line."""
    if "unavailable" in row:
        return f"not measured: {row['unavailable']}"
    reward = row["metrics"].get("reward")
    text = f"{row['bytes'] / 1e6:.1f} MB, {row['speed']['64']:.0f} tokens/s at 64 rows"
    text = f"KL {row['fidelity']['kl']:.2g} nats per token, {text}"
    return f"reward {reward['mean']:.3f}, {text}" if reward else text


class _Comparison:
    """The measurements of one run."""

    def __init__(self, source: Source, prompts: int, samples: int) -> None:
        self.source = source
        self.tasks = source.tasks("test", prompts)
        self.samples = samples
        contexts = source.contexts(self.tasks)
        self.context = contexts[0]
        self.longest = max(map(len, contexts)) + max(source.mdp.max_generated, _COUNT) + 8
        seed = source.config.seed
        self.probe = make_probe(source.policy, contexts[:_PROBE_PROMPTS], max_new=_MAX_NEW, seed=seed)

    def policy_row(self) -> dict[str, Any]:
        """Return the row of the live policy in this process: its evaluation, without size and speed of a file."""
        return {"loader": "rlalign", **_evaluated(self._evaluate(None))}

    def row(
        self, form: Form, weights: Path, probe: Probe, full: dict[str, Any], dropped: Dropped | None = None
    ) -> dict[str, Any]:
        """Return the row of a form, or why it cannot be measured."""
        problem = obstacle(form, model_type(weights))
        if problem:
            return {"unavailable": problem}
        try:
            with _written(weights, form) as (folder, path):
                return self._measure(form, folder, path, probe, full, dropped)
        except (UserError, FaultError) as error:
            return {"unavailable": str(error)}

    def pruned_row(self, count: int | None, full: dict[str, Any]) -> dict[str, Any]:
        """Return the row of the policy without whole layers."""
        with tempfile.TemporaryDirectory() as folder:
            dropped = write_without_layers(self.source, Path(folder), count)
            probe, _ = pruned_probe(self.probe, Path(folder))
            return self.row(find_form("hf", ""), Path(folder), probe, full, dropped)

    def _measure(
        self, form: Form, folder: Path, path: Path, probe: Probe, full: dict[str, Any], dropped: Dropped | None
    ) -> dict[str, Any]:
        dtype = "auto" if form.quantize else "float32"
        with Engine(path, form.loader, dtype=dtype, context=max(map(len, probe.rows)) + 8) as engine:
            logprobs = engine.logprobs(probe.rows, probe.positions)
        fidelity = probe.compare(logprobs)
        with Engine(path, form.loader, dtype="auto", context=self.longest, exact=False) as engine:
            one = engine.speed(self.context, 1, _COUNT, repeats=3)
            memory = engine.peak_memory()
        with Engine(path, form.loader, dtype="auto", context=self.longest, parallel=_MANY, exact=False) as engine:
            many = engine.speed(self.context, _MANY, _COUNT)
            evaluation = self._evaluate(engine)
        row = {
            "loader": form.loader,
            "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
            "memory": memory,
            "speed": {"1": one, "64": many},
            "fidelity": self.probe.compare(logprobs).to_dict(),
            "excess": fidelity.excess(form),
            **_evaluated(evaluation, full),
        }
        return row | ({} if dropped is None else {"dropped": asdict(dropped)})

    def _evaluate(self, engine: Engine | None) -> Evaluation:
        """Evaluate the live policy, or a form that an engine has loaded."""
        source = self.source
        policy = source.policy
        draw = None if engine is None else EngineSampler(engine, policy.tokenizer.pad_id)
        return evaluate(
            policy,
            source.mdp,
            self.tasks,
            samples=self.samples,
            sampling=source.config.rollout.sampling,
            seed=source.config.seed,
            teacher=None if engine is None else PolicyScorer(policy),
            draw=draw,
        )


@contextmanager
def _written(weights: Path, form: Form) -> Iterator[tuple[Path, Path]]:
    """Write a form to a temporary folder; yield the folder, and what the form's loader is given."""
    folder = Path(tempfile.mkdtemp(prefix="rlalign-form-"))
    try:
        yield folder, write_form(weights, folder, form, name="policy")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _evaluated(evaluation: Evaluation, full: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the entries of an evaluation: means, paired differences from the full policy, and the KL to it."""
    metrics: dict[str, Any] = {}
    means: dict[str, list[float]] = {}
    for name, values in evaluation.metrics.items():
        if name in _LEFT_OUT:
            continue
        by_prompt = prompt_means(values)
        means[name] = by_prompt.tolist()
        metrics[name] = {"mean": evaluation.mean(name)}
        if full is not None:
            stored = [np.nan if mean is None else mean for mean in full["prompt_means"][name]]
            metrics[name]["difference"] = asdict(paired_difference(np.array(stored)[:, None], values))
    row: dict[str, Any] = {"metrics": metrics, "prompt_means": means, "tokens": evaluation.mean("length")}
    if "teacher_kl" in evaluation.metrics:
        for key, name in (("kl", "teacher_kl"), ("kl_token", "teacher_kl_token")):
            values = evaluation.metrics[name]
            row[key] = asdict(paired_difference(np.zeros_like(values), values))
            infinite = int(np.isposinf(values).sum())
            if infinite:  # the mean of the others would be no KL
                row[key] |= {"mean": None, "low": None, "high": None, "infinite": infinite}
    converted: dict[str, Any] = nullable(row)
    return converted


def _chosen(names: Sequence[str]) -> list[Form]:
    """Return forms by name; all for no name. Raises UserError for an unknown name."""
    known = {form.name: form for form in FORMS}
    for name in names:
        if name not in known:
            raise UserError(f"--forms: expected names of {', '.join(known)}, got '{name}'; use one of them")
    return [known[name] for name in names or known]


def _weights_id(source: Source) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the weights of the policy, which tell whether stored results are of them."""
    paths = sorted(source.folder.glob("*.safetensors"))
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _stored(run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an earlier comparison with the same settings, or empty ones."""
    path = run / "report" / RESULTS
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        results: dict[str, Any] = read_json(path, f"delete {path} to measure all forms again")
        if results.get("settings") == settings:
            return results
    return {"settings": settings, "forms": {}}


def _store(run: Path, results: dict[str, Any]) -> None:
    write_atomic(run / "report" / RESULTS, json.dumps(nullable(results), indent=1) + "\n")
