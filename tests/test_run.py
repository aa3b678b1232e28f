"""The handle on a run folder."""

from rlalign.config.defaults import default_config
from rlalign.envs.registration import make_mdp
from rlalign.evaluation import evaluate_run as module
from rlalign.run import Run
from rlalign.storage.run_folder import write_config


def test_objects_passed_to_one_evaluation_serve_the_next(tmp_path, monkeypatch):
    """Fails if a run of another process asks for its environment object at each evaluation."""
    calls = []
    monkeypatch.setattr(module, "evaluate_run", lambda folder, config, **arguments: calls.append(arguments))
    write_config(tmp_path, default_config())
    run, mdp, rewards = Run(tmp_path), make_mdp("reverse"), [len]
    run.evaluate(env=mdp, rewards=rewards)
    run.evaluate(split="validation")
    run.evaluate(env="sort")  # another environment with its own rewards, for this call alone
    run.evaluate()
    assert [call["env"] for call in calls] == [mdp, mdp, "sort", mdp]
    assert [call["rewards"] for call in calls] == [rewards, rewards, None, rewards]
