"""Training templates of this kind are to come."""
