"""Hydra plugins: the launcher `vec`, the sweeper `vec_grid`, and the search path of the shared configs."""
