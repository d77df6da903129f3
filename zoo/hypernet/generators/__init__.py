"""The ways from a code to weights, one a file: `base.Generator` chooses and initializes one of them by name."""
