"""Training templates: language models."""
