"""Images drawn by rule, of tissue-like and of general textures, to train a backbone on.

No photograph and no weight of others is behind them: each image is computed from random numbers
and the parameters of its family, in JAX, a batch at a time. `draw` is what the rest of the package
uses.
"""
