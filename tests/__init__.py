"""cmdcm: tests."""
