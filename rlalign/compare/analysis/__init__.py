"""Statistics of a study: estimates, intervals, tests, pairs of algorithms, and the verdict."""
