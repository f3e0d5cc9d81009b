"""The command `vec-new`."""
