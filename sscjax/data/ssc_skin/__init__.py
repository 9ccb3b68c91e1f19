"""The image sets of this package as a tensorflow-datasets builder (tfds finds it by this name)."""
