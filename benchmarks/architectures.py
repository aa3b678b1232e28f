"""Each causal architecture of the installed transformers: the path taken, and its distance from plain rows.

    python benchmarks/architectures.py                     # all architectures, some 20 minutes
    python benchmarks/architectures.py llama mamba gpt2    # these; the results of the others stay
    python benchmarks/architectures.py --draw              # only writes the table of docs/results/architectures.md

A tiny random model of each architecture (`tiny_models.py`) becomes a policy: in float32 and bfloat16, with full
fine-tuning and with LoRA whose adapters are not zero. Plain rows are forward passes of transformers and peft alone, a
row at a time, in float32, on a copy that this library has not changed, and once in bfloat16 for the size of its
rounding. They are compared with sampled log-probs, scored log-probs, reference log-probs, the gradient, and the scores
of the saved and loaded policy.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, write
from pages import DOCS, Parts, fill, table
from tiny_models import VOCABULARY, NotTiny, model_types, tiny_model
from torch import Tensor

from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.add import add_adapter
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import load, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.rounding import rounded_embeddings
from rlalign.policies.weight_dtype import cast_weights
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Sampling

DTYPES = ("float32", "bfloat16")
RANKS = (0, 4)
SECONDS = 120
"""Limit of one architecture, so that an endless loop in a library ends."""
CONTEXTS = [[3, 9, 4, 5, 11, 30]] * 3 + [[6]] * 2 + [[8, 22, 13, 41, 9, 2, 17, 5, 60, 33, 7]] + [[12, 40, 3]]
"""Ragged prompts, some of them in groups."""
TOKENIZER = CharTokenizer("".join(map(chr, range(ord("0"), ord("0") + VOCABULARY - 2))))
NEW_TOKENS = 14
LIMITS = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest mean difference in nats per token that counts as right; or three times that of plain rows in bfloat16."""
LOADED_LIMITS = {"float32": 1e-3, "bfloat16": 1e-2}
"""The same for the saved and loaded policy, which is computed in float32; in bfloat16 its weights may be rounded."""
RESOLUTION = 2.0**-9
"""Half the distance of neighbors in bfloat16, relative to them."""
GRADIENT_LIMITS = {"float32": 1e-2, "bfloat16": 0.1}
"""Largest distance from the gradient of plain rows, relative to its norm; or twice that of plain rows in bfloat16."""


def measure(model_type: str, dtype: str, lora_r: int) -> dict[str, Any]:
    """Return the path of a tiny model and its differences from plain rows, in nats per token.

    Args:
        model_type: of transformers.
        dtype: compute dtype of the policy.
        lora_r: rank of the adapters; 0: full fine-tuning.

    Returns:
        `refused` with the reason; else `path`, and `sampled`, `scored`, `reference` and `loaded` (mean and largest
        difference), and `gradient` (relative distance). In bfloat16 also `rounding` and `rounding_gradient`, the
        largest differences of plain rows in bfloat16.

    Raises:
        NotTiny: no tiny configuration is known.
    """
    lm = tiny_model(model_type)
    original = copy.deepcopy(lm)
    options = PolicyOptions(adapter=AdapterOptions.lora(lora_r), dtype=dtype)  # type: ignore[arg-type]  # one of DTYPES
    try:
        policy = CausalPolicy(lm, TOKENIZER, options=options, seed=1)
    except UserError as error:
        return {"refused": str(error)}
    _perturb(policy)
    plain = _plain_copy(original, policy, options)
    samples = make_sampler("decode", policy).sample(
        CONTEXTS,
        max_new=NEW_TOKENS,
        stop_ids=frozenset({TOKENIZER.eos_id}),
        sampling=Sampling(),
        generator=torch.Generator().manual_seed(0),
    )
    rows = [[*c, *t[:n]] for c, t, n in zip(CONTEXTS, samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
    tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    sampled = torch.zeros(tokens.shape)
    for i, row in enumerate(rows):
        start = len(CONTEXTS[i])
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, start : len(row)] = True
        sampled[i, start : len(row)] = samples.logprobs[i, : len(row) - start]
    batch = (tokens, torch.tensor([len(row) for row in rows]), mask)
    expected = _plain_logprobs(plain, rows, tokens.shape)
    scored = policy.score(*batch, Sampling()).logprobs
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2)) * mask
    gradient = _gradient(policy.model, (weights * scored).sum())
    expected_gradient = _gradient(plain, (weights * expected).sum())
    reference = policy.reference_logprobs(*batch, Sampling())
    base = original if lora_r == 0 or dtype == "float32" else _rounded(original)
    with torch.no_grad():
        expected_reference = _plain_logprobs(base, rows, tokens.shape)
    result: dict[str, Any] = {
        "path": policy.path_summary,
        "scoring": policy.paths.scoring,
        "decoding": policy.paths.decoding,
        "sampled": _difference(sampled, expected, mask),
        "scored": _difference(scored, expected, mask),
        "reference": _difference(reference, expected_reference, mask),
        "gradient": _distance(gradient, expected_gradient),
    }
    if dtype == "bfloat16":
        # the precision of the policy: frozen weights are bfloat16 under adapters, else autocast casts float32 weights
        if lora_r:
            adapters = [(p, p.data) for name, p in plain.named_parameters() if "lora_" in name]
            cast_weights(plain.get_base_model(), torch.bfloat16)
            for parameter, data in adapters:
                parameter.data = data
        differences, distances = [], []
        # a router decides otherwise in some of several passes, whose embeddings differ by less than their resolution
        for size, seed in ((0.0, 0), (RESOLUTION, 1), (RESOLUTION, 2)):
            with rounded_embeddings(plain, size, seed), torch.autocast("cpu", torch.bfloat16, enabled=lora_r == 0):
                rounded = _plain_logprobs(plain, rows, tokens.shape)
            distances.append(_distance(_gradient(plain, (weights * rounded).sum()), expected_gradient))
            differences.append(_difference(rounded, expected, mask))
        with torch.no_grad():
            cast_weights(base, torch.bfloat16)
            differences.append(_difference(_plain_logprobs(base, rows, tokens.shape), expected_reference, mask))
        result["rounding"] = max(difference["mean"] for difference in differences)
        result["rounding_gradient"] = max(distances)
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(Path(folder))
        loaded = load(folder)
        with torch.no_grad():
            result["loaded"] = _difference(loaded.score(*batch, Sampling()).logprobs, expected, mask)
    return result


def is_right(result: dict[str, Any], dtype: str) -> bool:
    """Return True if a model is refused with a reason, or no difference is above its limit."""
    if "refused" in result:
        return True
    means = [result[name]["mean"] for name in ("sampled", "scored", "reference")]
    limit = max(LIMITS[dtype], 3 * result.get("rounding", 0.0))
    gradient_limit = max(GRADIENT_LIMITS[dtype], 2 * result.get("rounding_gradient", 0.0))
    if result["loaded"]["mean"] > LOADED_LIMITS[dtype]:
        return False
    return max(means) <= limit and result["gradient"] <= gradient_limit


def _perturb(policy: CausalPolicy) -> None:
    """Change the trained parameters as an optimizer would: LoRA's B is no longer zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def _plain_copy(original: Any, policy: CausalPolicy, options: PolicyOptions) -> Any:
    """Return a model of transformers, or of peft, with the policy's weights in float32 and no code of this library."""
    model = copy.deepcopy(original)
    model.get_input_embeddings().padding_idx = None  # else the embedding of padding gets no gradient
    if options.adapter.is_trained:
        model.requires_grad_(False)
        cast_weights(model, policy.compute_dtype)  # which decides the layers that are adapted
        model = add_adapter(model, options.adapter, seed=0)
        cast_weights(model.get_base_model(), torch.float32)
    trained = {name.removeprefix("model."): p for name, p in policy.trainable().items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.copy_(trained[name])
    return model.eval()


def _rounded(model: Any) -> Any:
    """Round the weights to bfloat16 in place, but those that the architecture keeps in float32."""
    cast_weights(model, torch.bfloat16)
    cast_weights(model, torch.float32)
    return model


def _plain_logprobs(lm: Any, rows: list[list[int]], shape: torch.Size) -> Tensor:
    """Return the log-probs [N, L] of the tokens after the prompts, each row in a forward pass of its own."""
    lines = []
    for row, context in zip(rows, CONTEXTS, strict=True):
        ids = torch.tensor([row])
        logprobs = lm(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        taken = logprobs[:-1].gather(-1, ids[0, 1:, None]).squeeze(-1)[len(context) - 1 :]
        lines.append(torch.nn.functional.pad(taken, (len(context), shape[1] - len(row))))
    return torch.stack(lines)


def _gradient(model: Any, loss: Tensor) -> dict[str, Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {name: g for name, g in zip(trained, grads, strict=True) if g is not None}


def _distance(gradient: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of two gradients, relative to that of the expected one."""
    names = gradient.keys() | expected.keys()
    zero = torch.zeros(())
    squares = sum((gradient.get(n, zero) - expected.get(n, zero)).double().square().sum() for n in names)
    norm = sum(g.double().square().sum() for g in expected.values())
    return float((torch.as_tensor(squares) / torch.as_tensor(norm)).sqrt())


def _difference(values: Tensor, expected: Tensor, mask: Tensor) -> dict[str, float]:
    """Return the mean and the largest difference over a mask."""
    differences = (values.detach() - expected.detach()).abs()[mask].nan_to_num(nan=torch.inf)
    return {"mean": float(differences.mean()), "largest": float(differences.max())}


def cell(model_type: str) -> dict[str, Any]:
    """Return all measurements of an architecture, or the reason why there are none."""
    warnings.filterwarnings("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped in transformers
    torch.set_num_threads(1)

    def expired(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, expired)
    measured: dict[str, Any] = {"model_type": model_type}
    for dtype in DTYPES:
        for rank in RANKS:
            signal.alarm(SECONDS)
            try:
                measured[name_of(dtype, rank)] = measure(model_type, dtype, rank)
            except NotTiny as error:
                return {"model_type": model_type, "not_measured": str(error)}
            except Exception as error:  # a crash is a result of this script
                lines = str(error).strip().splitlines()
                measured[name_of(dtype, rank)] = {"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}
            finally:
                signal.alarm(0)
    return measured


def name_of(dtype: str, rank: int) -> str:
    """Return the key of a measurement."""
    return f"{dtype}, {'LoRA' if rank else 'full'}"


def parts() -> Parts:
    """Return the tables of the page."""
    cells = json.loads((RESULTS / "architectures.json").read_text(encoding="utf-8"))["cells"]
    heads = ["architecture", "run", "scored", "decoded", "sampled", "scored off", "reference", "gradient", "loaded"]
    lines, refused = [], []
    for entry in cells:
        for dtype in DTYPES:
            for rank in RANKS:
                result = entry.get(name_of(dtype, rank), {})
                if "path" in result:
                    numbers = [f"{result[n]['mean']:.1g}" for n in ("sampled", "scored", "reference")]
                    numbers += [f"{result['gradient']:.1g}", f"{result['loaded']['mean']:.1g}"]
                    paths = [result["scoring"], result["decoding"]]
                    lines.append([f"`{entry['model_type']}`", name_of(dtype, rank), *paths, *numbers])
                elif result:
                    reason = result.get("refused", result.get("error", "")).replace("|", "\\|")
                    refused.append([f"`{entry['model_type']}`", name_of(dtype, rank), reason[:300]])
    missing = [[f"`{e['model_type']}`", e["not_measured"]] for e in cells if "not_measured" in e]
    return {
        DOCS / "results" / "architectures.md": {
            "paths": table(heads, lines),
            "refused": table(["architecture", "run", "reason"], refused),
            "missing": table(["architecture", "reason"], missing),
        }
    }


def main() -> None:
    """Measure architectures and write results and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model types; all by default")
    parser.add_argument("--draw", action="store_true", help="only write the page")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.draw:
        path = RESULTS / "architectures.json"
        stored = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
        cells = {entry["model_type"]: entry for entry in stored if arguments.names}
        # a process for a few architectures: a crash or a leak of one of them does not reach the others
        with multiprocessing.get_context("spawn").Pool(arguments.processes, maxtasksperchild=20) as pool:
            for measured in pool.imap_unordered(cell, arguments.names or model_types()):
                cells[measured["model_type"]] = measured
                wrong = _wrong(measured)
                outcome = "wrong: " + "; ".join(wrong) if wrong else "right"
                print(measured["model_type"], measured.get("not_measured", outcome), flush=True)
                write("architectures", {"cells": sorted(cells.values(), key=lambda entry: entry["model_type"])})
        for entry in cells.values():
            for name in _wrong(entry):
                print("WRONG:", entry["model_type"], name)
    fill(parts())


def _wrong(entry: dict[str, Any]) -> list[str]:
    """Return the runs of an architecture that are neither right nor refused."""
    return [
        name
        for name, result in entry.items()
        if isinstance(result, dict) and ("error" in result or not is_right(result, name.partition(",")[0]))
    ]


if __name__ == "__main__":
    main()
