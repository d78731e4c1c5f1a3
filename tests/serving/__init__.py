"""cmdcm: tests, serving."""
