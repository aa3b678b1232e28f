"""What a run says: metrics, alarms, files, pictures and trackers."""
