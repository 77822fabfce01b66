"""Checkpoints on disk: where training and evaluation meet."""
