"""From a config to a finished run, and to many of them."""
