"""cmdcm: tests, model."""
