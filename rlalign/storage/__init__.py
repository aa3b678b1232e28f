"""Everything that a run writes to disk: its folder, checkpoints, JSON lines, atomic writes."""
