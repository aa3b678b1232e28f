"""From tasks to scored trajectories.

collect.py                    one rollout: sample, step the environment, score
dynamic_sampling.py           replace groups without reward variance (DAPO)
component_normalization.py    normalize each reward component within its group (GDPO)
agreement.py                  the check that sampled and scored log-probs are of one distribution
generation.py                 sample with a trained policy until the reward reaches a level
"""
