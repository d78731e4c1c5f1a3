"""Tests of `cmdcm.jobs.tune`."""
