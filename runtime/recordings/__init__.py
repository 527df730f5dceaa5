"""Frames around actions, kept so that a decision can be replayed and trained on."""
