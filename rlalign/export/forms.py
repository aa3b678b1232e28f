"""The forms in which a policy can be exported: format, quantization, loader, and how close each must be."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from rlalign.errors import MissingExtraError, UserError

Format = Literal["hf", "gguf"]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to store a policy.

    Attributes:
        name: name in tables and manifests.
        format: hf, a folder of transformers; gguf, a file of llama.cpp.
        quantize: as `--quantize` names it; "" for the unquantized form of the format.
        loader: the program that loads it: transformers or llama.cpp.
        kl_bound: nats per token. The largest mean KL to the policy over held-out positions with which it is written.
        nats_bound: nats. The largest difference of one log-prob with which it is written; None: not bounded.
    """

    name: str
    format: Format
    quantize: str
    loader: Literal["transformers", "llama.cpp"]
    kl_bound: float
    nats_bound: float | None = None


FORMS = (
    Form("hf", "hf", "", "transformers", 1e-4, 1e-2),
    Form("hf-int8", "hf", "int8", "transformers", 0.05),
    Form("hf-int8-dynamic", "hf", "int8_dynamic", "transformers", 0.1),
    Form("hf-int4", "hf", "int4", "transformers", 1.0),
    Form("gguf-f32", "gguf", "f32", "llama.cpp", 1e-4, 1e-2),
    Form("gguf-f16", "gguf", "f16", "llama.cpp", 1e-3, 0.1),
    Form("gguf-bf16", "gguf", "bf16", "llama.cpp", 0.01, 1.0),
    Form("gguf-q8_0", "gguf", "q8_0", "llama.cpp", 0.05),
    Form("gguf-q5_1", "gguf", "q5_1", "llama.cpp", 0.2),
    Form("gguf-q5_0", "gguf", "q5_0", "llama.cpp", 0.2),
    Form("gguf-q4_1", "gguf", "q4_1", "llama.cpp", 0.5),
    Form("gguf-q4_0", "gguf", "q4_0", "llama.cpp", 1.0),
)
"""All forms, the larger ones of a format first. The bounds hold for the files that this library writes, not for a
policy: a policy whose log-probs react more to rounding is refused, by name and with its distance."""


def find_form(format: str, quantize: str) -> Form:
    """Return a form.

    Args:
        format: hf or gguf.
        quantize: as `Form.quantize`; "" for the format's own form: the stored dtype of hf, f16 of gguf.

    Raises:
        UserError: the form is unknown.
    """
    formats = list(dict.fromkeys(form.format for form in FORMS))
    if format not in formats:
        raise UserError(f"--format: expected {' or '.join(formats)}, got '{format}'; use one of them")
    chosen = quantize or ("f16" if format == "gguf" else "")
    for form in FORMS:
        if form.format == format and form.quantize == chosen:
            return form
    known = [form.quantize for form in FORMS if form.format == format and form.quantize]
    raise UserError(f"--quantize: expected one of {', '.join(known)} for {format}, got '{quantize}'; use one of them")


def obstacle(form: Form, model_type: str) -> str:
    """Return why this machine cannot write or load a form of a model; "" if it can.

    Args:
        form: the form.
        model_type: family in transformers' names, such as llama.
    """
    try:
        check_form(form, model_type)
    except UserError as error:
        return str(error)
    return ""


def check_form(form: Form, model_type: str) -> None:
    """Check that this machine can write and load a form.

    Args:
        form: the form.
        model_type: family in transformers' names.

    Raises:
        MissingExtraError: a package is missing.
        UserError: the family or this machine does not support the form.
    """
    if form.format == "gguf":
        from rlalign.export.gguf_families import FAMILIES

        if model_type not in FAMILIES:
            raise UserError(
                f"--format gguf: expected a model of {', '.join(sorted(FAMILIES))}, got {model_type}; use --format hf, "
                "then convert_hf_to_gguf.py of llama.cpp on that folder"
            )
        if find_spec("xllamacpp") is None:  # each file is loaded back before it counts
            raise MissingExtraError("xllamacpp", "export")
        return
    if not form.quantize:
        return
    if find_spec("torchao") is None:
        raise MissingExtraError("torchao", "quant")
    if model_type == "gpt2":
        raise UserError(
            f"--quantize {form.quantize}: expected a model with nn.Linear layers, got gpt2, whose layers are Conv1D, "
            "which torchao leaves as they are; use --format gguf --quantize q8_0"
        )
    if form.quantize == "int4" and find_spec("mslk") is None:
        raise UserError(
            "--quantize int4: expected the package mslk, which has torchao's kernels of 4-bit weights for CUDA, got a "
            "machine without it; use --format gguf --quantize q4_0"
        )
