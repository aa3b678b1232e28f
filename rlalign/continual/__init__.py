"""Continued learning: a run that starts from the policy of a former run.

chain.py                  the former runs with their digests, recorded in the manifest and verified
check.py                  checks of the settings before any weight is loaded
continuation.py           all that a run takes from the former one: the door for the trainer
former_weights.py         the trained tensors of the former run, and the check that they are the same
kept_optimizer.py         its AdamW moments
previous_reference.py     its reference policy, for the KL
former_environment.py     its environment and rewards, for replay and the Fisher information
replay.py                 its prompts among the new ones, in exact shares
fisher.py, ewc.py         elastic weight consolidation
transfer_matrix.py        tasks × stages: the rewards of each policy of the chain
transfer.py               forgetting and backward transfer with their intervals
"""

from rlalign.continual.check import check_continual
from rlalign.continual.continuation import Continuation, continuation

__all__ = ["Continuation", "check_continual", "continuation"]
