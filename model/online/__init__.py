"""Training on a stream of clicks whose conversion may still come (docs/streaming.md)."""
