"""SavedModel with its signatures, warm-up, manifest and publishing."""
