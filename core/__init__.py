"""What every stage stands on: errors, staged files, the typed configuration."""
