"""Built-in rewards, one file per family; `rlalign.registry.REWARDS` maps their names to these files."""
