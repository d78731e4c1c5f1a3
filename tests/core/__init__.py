"""cmdcm: tests, core."""
