"""Kinds of adapters that are trained over frozen weights, all through peft.

add             add_adapter: a new adapter of any kind
names           the kind of a stored adapter, and which parameters belong to one
adalora         layers of AdaLoRA as sums
dora            layers of DoRA with the norm in float32
rank_schedule   AdaLoRA's schedule of ranks and its penalty
virtual_tokens  the cache of the virtual tokens of prefix and prompt tuning
"""
