"""Classification of small sets of medical images on an ordinary computer, in JAX."""

__version__ = "0.3.0"
