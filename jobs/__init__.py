"""The command line that ties the stages together."""
