"""results.json: its schema, reading and writing, and the manifest of a study."""
