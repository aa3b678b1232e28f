"""Single-turn language tasks."""
