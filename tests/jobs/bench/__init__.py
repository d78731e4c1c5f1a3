"""Tests of `cmdcm.jobs.bench`."""
