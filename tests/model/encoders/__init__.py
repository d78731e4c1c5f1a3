"""Tests of `cmdcm.model.encoders`."""
