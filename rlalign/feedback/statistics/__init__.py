"""Statistics of judgements."""
