"""Tests of `cmdcm loadtest`."""
