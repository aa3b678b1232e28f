"""Statistics of a study."""
