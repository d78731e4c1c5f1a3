"""cmdcm: tests, features."""
