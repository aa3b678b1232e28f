"""Statistics of votes."""
