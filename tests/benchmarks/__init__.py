"""cmdcm: tests, benchmarks."""
