"""Multi-layer perceptrons: the smallest complete templates."""
