"""Image sets: sources, splits, augmentation and the synthetic skin biopsies."""
