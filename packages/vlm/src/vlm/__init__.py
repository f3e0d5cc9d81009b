"""Training templates: vision-language models."""
