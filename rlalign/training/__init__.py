"""From experience to optimizer steps, and everything that keeps a run alive.

experiment.py        evaluate, train, evaluate, write
trainer.py           the loop
experience.py        what a step collects: rollout, rewards, log-probs, advantages
learner.py           the gradient and the optimizer step
reference_loop.py    the same training in one page, without options
trainer_state.py     what a checkpoint holds; save and resume
"""
