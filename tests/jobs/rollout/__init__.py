"""Tests of `cmdcm.jobs.rollout`."""
