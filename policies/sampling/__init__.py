"""Decoding: the samplers, and the optimized decoder that they use where a model supports it.

sampler                the interface: Sampler, Samples, CachedPrefix
decode_loop            DecodeSampler, the decode loop of this library
transformers_generate  GenerateSampler, the reference implementation by transformers.generate
protocol               SupportsCachedDecoding: policies with an optimized decoder
decode_batch           decoding state per row: sampled tokens, uniforms used, rows still active
decoding_weights       choice and refresh of the model that decodes
library_decoder        LibraryDecoder and its state: the caches of transformers, for all architectures
fast_decoder           FastDecoder and its KVCache: Llama, Qwen2, Qwen3 and GPT-2, written for decoding
fast_layer             one layer of a FastDecoder
prepacked_linear       matrix products with weights prepared once per rollout
cuda_graphs            decoding in buffers of fixed size, by captured graphs on CUDA
"""
