"""Predictions and their metrics, with intervals."""
