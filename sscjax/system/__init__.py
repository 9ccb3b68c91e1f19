"""Files, locks, signals, memory and the terminal: nothing here knows about images."""
