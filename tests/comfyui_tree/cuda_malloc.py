"""Chooses torch's allocator, before torch is imported."""

import sys

assert "torch" not in sys.modules, "too late: torch is imported already"
