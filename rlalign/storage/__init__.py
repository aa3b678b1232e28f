"""Everything that a run writes to disk.

run_folder.py      config.json and the lock of a run folder
checkpoint.py      checkpoints that survive kills, full disks and flipped bits
best_weights.py    the weights of the best validation
jsonl.py           metrics.jsonl and samples.jsonl
atomic.py          atomic writes of single files
"""
