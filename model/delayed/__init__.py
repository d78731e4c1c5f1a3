"""Models that train on clicks whose conversion may still come: delayed feedback."""
