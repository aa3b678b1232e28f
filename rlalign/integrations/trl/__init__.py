"""TRL and this library, both ways.

    dataset, reward_func, reward_funcs, processing_class    ours in TRL's trainers
    train_trl                                               TRL's trainers on our environments, as an ordinary run

TRL's reward functions run here as they are: the signature is the same. An environment that answers back (more than one
turn) has no counterpart in TRL's loop; it is refused.
"""

from rlalign.integrations.trl.bridge import dataset, reward_func, reward_funcs
from rlalign.integrations.trl.tokenizer import processing_class
from rlalign.integrations.trl.train import train_trl

__all__ = ["dataset", "processing_class", "reward_func", "reward_funcs", "train_trl"]
