"""Programs that make parts of the handbook."""
