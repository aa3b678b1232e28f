"""Reward models as rewards: their folder, their scores, and a server behind a URL.

`--reward ./rm` names a folder with reward_model.json, or one that TRL's RewardTrainer saved. `rlalign.reward_models`
trains and measures them.

    manifest.py      reward_model.json: kind, tokens, center, versions, and the scores of 16 probe texts
    probes.py        the 16 probe texts, and the check of their scores at every load
    rendering.py     conversations as the tokens of the reward model: finished, or cut without the end mark
    transformer.py   a sequence classifier with one output
    linear.py        weights of TF-IDF features
    ensemble.py      several models: mean, minimum, mean minus disagreement
    folder.py        `load_scorer`: any folder, checked against its probes
    remote.py        a reward-model server: batches, timeouts, retries
    function.py      the reward of a spec: a folder or a URL
"""
