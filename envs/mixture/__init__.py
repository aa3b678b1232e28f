"""Several environments in one run: a mixture by weights, or one environment after another.

The door is `Mixture(environments, weights)` of `mixture`, or the spec `a=0.7,b=0.3` or `a@0,b@200` of `make_mdp`; both
are a TextMDP, which training, evaluation and the Gymnasium views use as any other. A weight may be a schedule over
training steps (`rlalign.rewards.weights.Schedule`), so that the replay of a former environment is a mixture such as
`Mixture({"new": new, "former": former}, {"new": 0.8, "former": Schedule(((0, 0.2), (100, 0.0)))})`.

mixture   Mixture: the MDP that hands each task to its environment
parts     functions for each environment of a mixture, or for the only one
weights   Weights: shares of the environments over training steps, schedules, stages, temperature
spec      the spec of a mixture, and short names of environments
source    the tasks of a mixture, each with the name of its environment
rewards   the rewards of a mixture
stream    task_stream: the order of the tasks of an environment or a mixture, with a state
"""
