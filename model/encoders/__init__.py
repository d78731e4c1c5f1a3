"""Sequence encoders: what `model.sequence_encoder` chooses from."""
