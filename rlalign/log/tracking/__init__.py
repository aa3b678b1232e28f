"""Trackers: programs besides the run's own files to which a run writes its numbers, samples, pictures and card.

protocol (the interface, the registry and the choice of a run), thread (a tracker on a thread of its own),
weights_and_biases, tensorboard, mlflow.
"""
