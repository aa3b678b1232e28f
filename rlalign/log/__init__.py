"""Everything that a run logs: metrics, diagnostics, alarms, trackers, plots and the progress line."""
