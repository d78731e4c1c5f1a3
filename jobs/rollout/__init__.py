"""Rolling versions out on running servers: canary, promote, roll back."""
