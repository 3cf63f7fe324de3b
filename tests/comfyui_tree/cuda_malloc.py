"""Chooses torch's allocator, which is read when torch is imported."""

import sys

assert "torch" not in sys.modules, "too late: torch is imported already"
