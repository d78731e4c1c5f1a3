"""Monitoring: what servers answered, against what happened."""
