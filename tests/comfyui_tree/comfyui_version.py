"""The version that this tree imitates."""

__version__ = "0.3.64"
