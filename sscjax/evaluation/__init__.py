"""Predictions and every figure about them, with intervals."""
