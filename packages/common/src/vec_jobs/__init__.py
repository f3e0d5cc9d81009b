"""The command `vec-jobs`."""
