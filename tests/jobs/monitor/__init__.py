"""Tests of the monitoring."""
