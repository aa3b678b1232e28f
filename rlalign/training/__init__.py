"""From a rollout to the optimizer's step."""
