"""Registered versions: what each was made of, and which one is on trial or in use."""
