"""Looking for leaks in a set of images: copies, patients in two splits, confounders."""
