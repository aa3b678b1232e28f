"""The configuration of a run: its fields, validation, serialization, defaults and the objects that it names."""
