# %% [markdown]
# # A policy for other engines
#
# A trained policy leaves this library as files that transformers, peft, vLLM and llama.cpp load. This tutorial exports
# a small policy in two forms, loads each with its own engine, and measures what the smaller file costs.
#
# **Needs:** the extra `export` (`pip install -c constraints.txt -e '.[export]'`). **Takes:** about 30 seconds on one
# core. **Runs as a script:** `python docs/tutorials/export_a_policy.py`. All files are written to a new temporary
# folder.

# %%
import tempfile
from pathlib import Path

import xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlalign
from rlalign.cli import main

FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A run
#
# A tiny transformer of Llama's shape learns to copy strings. `smollm2` is exported in the same way.

# %%
run = rlalign.train(
    "copy", "tiny", steps=100, output=FOLDER / "copy", quiet=True
)
print(run.comparison.verdict)

# %% [markdown]
# ## A folder for transformers, peft and vLLM
#
# An export is loaded back at once by its own loader in a fresh process, and compared with the live policy on held-out
# prompts. A file outside of its bound is not kept. In a terminal: `rlalign export runs/copy --output out/hf`.

# %%
folder = run.export(FOLDER / "hf")
print(f"KL {folder.fidelity.kl:.1e} nats per token")
print(f"largest difference of a log-prob {folder.fidelity.nats:.1e}")
for path in sorted(folder.folder.iterdir()):
    print(f"{path.stat().st_size:9,} {path.name}")

# %% [markdown]
# transformers needs nothing of this library:

# %%
model = AutoModelForCausalLM.from_pretrained(folder.path)
tokenizer = AutoTokenizer.from_pretrained(folder.path)
prompt = run.comparison.samples(1)[0]["prompt"]
ids = tokenizer(prompt, return_tensors="pt").input_ids
generated = model.generate(ids, max_new_tokens=8, do_sample=False)
print(tokenizer.decode(generated[0], skip_special_tokens=True))

# %% [markdown]
# ## A file for llama.cpp
#
# GGUF holds weights, tokenizer and chat template in one file. `q8_0` has 8.5 bits per weight:

# %%
gguf = run.export(FOLDER / "gguf", format="gguf", quantize="q8_0")
print(gguf.line)

# %%
parameters = xllamacpp.CommonParams()
parameters.model.path = str(gguf.path)
parameters.sampling.temp = 0.0
parameters.verbosity = -1
server = xllamacpp.Server(parameters)
answer = server.handle_completions({"prompt": prompt, "max_tokens": 8})
print(prompt + answer["choices"][0]["text"])
del server

# %% [markdown]
# ## Is the file whole?
#
# `export.json` holds the distance from the policy, and the digest of each file. A file that was changed is found:

# %%
assert main(["export", str(gguf.folder), "--check"]) == 0
with gguf.path.open("r+b") as file:
    file.seek(-1, 2)
    last = file.read(1)
    file.seek(-1, 2)
    file.write(bytes([last[0] ^ 1]))
assert main(["export", str(gguf.folder), "--check"]) != 0

# %% [markdown]
# ## What each form costs
#
# `compare_forms` measures each form by its own loader: the reward on held-out prompts with the paired interval of its
# difference from the policy, the exact KL, bytes, memory and speed. In a terminal: `rlalign export runs/copy
# --compare`.

# %%
results = run.compare_forms(prompts=8, samples=2, forms=["gguf-q4_0"])
for name, row in results["forms"].items():
    reward = row["metrics"]["reward"]
    line = f"{name:10} reward {reward['mean']:.2f}"
    if "difference" in reward:
        d = reward["difference"]
        line += f"  {d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
        line += f"  KL {row['fidelity']['kl']:.1e}  {row['bytes']:,} bytes"
    print(line)

# %% [markdown]
# The table and a picture are in `report/`. A policy this small loses much in four bits, and saves little: its
# embedding stays in eight. [What each form costs](../results/export.md) has the figures of SmolLM2.
#
# ## Next
#
# - [Export](../concepts/export.md): all forms and their bounds, fewer layers, vLLM
# - [A second task without losing the first](continue_a_run.py): an export is a policy for further runs, too
