"""From tasks to scored trajectories: collection, dynamic sampling, per-component normalization, generation."""
