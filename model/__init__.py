"""Keras layers, heads, losses, models, training and evaluation."""
