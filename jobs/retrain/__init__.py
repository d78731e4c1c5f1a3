"""The retraining job: from the log as it was at an instant to a model in serving, or a reason."""
