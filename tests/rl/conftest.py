"""The fixtures are those of all packages."""

from tests.templates import drill, launch, run, why_it_failed

__all__ = ["drill", "launch", "run", "why_it_failed"]
