"""Search for settings: spaces, configurations of trials, the optuna study, and its results."""
