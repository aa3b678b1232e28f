"""From experience to optimizer steps, and everything that keeps a run alive.

experiment.py        evaluate, train, evaluate, write
trainer.py           the loop
experience.py        what a step collects: rollout, rewards, log-probs, advantages
learner.py           the gradient and the optimizer step
reference_loop.py    the same training in one page, without options
trainer_state.py     what a checkpoint holds; save and resume

The same rows have four forms: a `Rollout` (what was sampled and scored, on the CPU), a `Batch` (the tensors that the
objective reads, advantages included, on the device), an `UpdateBuffer` (a batch and its planned minibatches) and an
`Experience` (a buffer and what is logged of its step).
"""
