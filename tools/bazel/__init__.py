"""Bazel support: the generator of the BUILD files and the launcher of tests and programs."""
