"""Stages, the training step, freezing, features of frozen layers and checkpoints."""
