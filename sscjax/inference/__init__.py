"""A finished run at work on new images: predictions, decisions and explanations."""
