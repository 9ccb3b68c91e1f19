"""Pre-trained weights: where they come from, what they assume, and how they are loaded."""
