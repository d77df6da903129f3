"""The command line of a comparison."""
