"""cmdcm: tests, jobs."""
