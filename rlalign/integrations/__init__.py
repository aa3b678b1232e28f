"""Connections to other libraries, in both directions: their trainers here, rlalign tasks and rewards there."""
