"""Connection to TRL, in both directions.

    dataset, reward_func, reward_funcs, processing_class    rlalign tasks, rewards and tokenizers for TRL's trainers
    train_trl                                               TRL's trainers on an rlalign environment, as a run folder

A reward function of TRL needs no conversion: rlalign calls rewards with the same signature. An environment of several
turns is refused, because TRL's training loop has a single turn.
"""

from rlalign.integrations.trl.bridge import dataset, reward_func, reward_funcs
from rlalign.integrations.trl.tokenizer import processing_class
from rlalign.integrations.trl.train import train_trl

__all__ = ["dataset", "processing_class", "reward_func", "reward_funcs", "train_trl"]
