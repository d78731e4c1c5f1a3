"""Tests of the retraining job."""
