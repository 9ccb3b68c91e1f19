"""Several runs of one config that test every patient once."""
