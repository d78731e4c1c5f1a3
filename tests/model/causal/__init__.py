"""cmdcm: tests, model, causal."""
