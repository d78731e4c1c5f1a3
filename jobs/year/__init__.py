"""A year in a box: the retraining job through simulated promotions, with real faults."""
