"""What can be claimed of the transition add-to-cart -> delayed conversion (docs/causal.md)."""
