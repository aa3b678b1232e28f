"""The card of an export: that of the run, with the loading of the files that are there, and what the export cost."""

from __future__ import annotations

from pathlib import Path

from rlalign.escaping.markdown import block, code
from rlalign.export.forms import Form
from rlalign.policies.model_files import ModelFiles
from rlalign.publish.base_model import CARD
from rlalign.publish.loading import TITLE, adapter_loading

_EARLIER = "`transformers` loads this folder without rlalign."
"""The last part of cards without a section about loading began with it."""


def finish_card(folder: Path, form: Form, path: Path, base: str, summary: str) -> None:
    """Rewrite the copied card of the run for an export; nothing if the run has none.

    Args:
        folder: of the export, with the card of the run.
        form: of the export.
        path: what the loader is given: the folder, or the GGUF file in it.
        base: of the adapter in `adapter/`, as others find it; empty: no adapter.
        summary: what the export cost, in a sentence.
    """
    card = folder / CARD
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    text = text.partition(f"\n{TITLE}\n")[0].partition(f"\n{_EARLIER}")[0].rstrip("\n")
    parts = [text, TITLE, *_loading(form, path, base), "## Export", summary]
    card.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _correct_metadata(card, form)


def _loading(form: Form, path: Path, base: str) -> list[str]:
    """Return how each loader reads the export, as parts of a card."""
    if form.format == "gguf":
        return [
            f"{code(path.name)} holds the weights, the tokenizer and the chat template for llama.cpp:",
            block(f"llama-server --model {path.name}", "bash"),
            "xllamacpp (the extra `export` of rlalign) loads it in Python.",
        ]
    if form.quantize:
        return ["`transformers` loads this folder with the package torchao (the extra `quant` of rlalign)."]
    dtype = (ModelFiles(str(path)).read_json("config.json") or {}).get("dtype")
    serve = "vllm serve FOLDER" + " --dtype float32" * (dtype == "float32")  # vLLM would cast them to 16 bits
    return [
        "`transformers` loads this folder, and vLLM serves it:",
        block(serve, "bash"),
        *adapter_loading("adapter" if base else "", base),
    ]


def _correct_metadata(card: Path, form: Form) -> None:
    """Name the library of a card's form, for the Hub. Metadata of the user that cannot be read stay as they are."""
    from huggingface_hub import metadata_load, metadata_save

    if form.name == "hf":
        return
    try:
        metadata = dict(metadata_load(card) or {})
    except Exception:  # YAML of somebody else: any error of the parser
        return
    if form.format == "gguf":
        metadata.pop("library_name", None)
    metadata["tags"] = [*(metadata.get("tags") or []), "gguf" if form.format == "gguf" else "torchao"]
    metadata_save(card, metadata)
