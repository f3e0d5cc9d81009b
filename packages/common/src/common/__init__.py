"""Shared by all template packages: configuration, launching, requeue and checkpoints."""
