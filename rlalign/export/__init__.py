"""Files of a trained policy for other engines: written, loaded back by their own loaders, and measured.

`export_run.py` is the door; `compare_forms.py` measures every form of a policy. `rlalign.policies.export` is another
thing: it writes the folder `policy/` of a run, from which this package starts.

    forms.py              the forms: format, quantization, loader and bound
    export_run.py         export of a run in one form
    source.py             the trained policy of a run, its environment and held-out tasks
    hf_writer.py          a folder of transformers; torchao_writer.py quantizes it
    export_card.py        the card of the run with the loading of the files that were written
    gguf_writer.py        a GGUF file: gguf_families.py maps weights, gguf_tokenizer.py the tokenizer
    whole_folder.py       atomic writing of a folder, its manifest export.json, and the check of both
    fidelity.py           log-probs of the policy on held-out tokens, and the distance of a form from them
    engine.py             the process that loads a form; engine_worker.py runs in it, with transformers_engine.py or
                          llama_engine.py
    prompt_check.py       a loader's tokens and chat prompts against those of the policy
    drop_layers.py        removal of whole decoder layers
    compare_forms.py      reward, KL, size, memory and speed of each form; comparison_files.py writes them
"""
