"""Tests of `cmdcm.jobs.deployment`."""
