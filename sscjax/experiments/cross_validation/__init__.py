"""Cross-validation: several runs of one config, each on another split."""
