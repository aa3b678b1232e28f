"""The card of a finished run and its upload.

facts (what the run folder holds), base_model (the origin of the initial policy and its license), data_licenses (per
environment), environments (of a mixture), changed_objective (beside that of the preset), former_runs (of a continued
run), trained_parts (adapter and number of parameters), adapter_card (README.md of an adapter), command (the command
that repeats the run), loading (by transformers and peft), metadata (what the Hub reads), card (the page), written_card
(its file),
shareable_files (its files as others read them), push (the upload), finish (the end of a run).
"""
