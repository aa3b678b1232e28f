"""Everything that a run writes to disk.

run_folder.py      config.json and the lock of a run folder
checkpoint.py      checkpoints that survive kills, full disks and flipped bits
newest.py          the newest checkpoint that verifies
identity.py        digests of data, code and initial weights; user_files.py finds the code
trust.py           run folders of other people; run_mark.py tells them from the user's own
best_weights.py    the weights of the best validation
jsonl.py           metrics.jsonl and samples.jsonl
atomic.py          atomic writes of single files
"""
