"""cmdcm: benchmarks."""
