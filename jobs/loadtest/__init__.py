"""The load test of a scoring server."""
