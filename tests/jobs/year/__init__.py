"""Tests of the year in a box."""
