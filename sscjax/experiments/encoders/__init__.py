"""Encoders compared on the same patients: `sscjax compare-features`."""
