"""cmdcm: tests, datasets."""
