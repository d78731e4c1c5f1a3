"""cmdcm: tests, export."""
