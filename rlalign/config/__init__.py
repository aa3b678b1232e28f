"""The configuration of a run, and the objects that it names.

schema.py             the fields, as frozen dataclasses
validate.py           checks of types, ranges and combinations
serialize.py          JSON and back, the migration table, fingerprints
defaults.py           defaults by environment, policy and algorithm
overrides.py          settings by dotted name, from a command line or a TOML file
unused_settings.py    settings that were changed and that nothing reads
instantiate.py        the environment, its rewards and the policy
"""
