"""Engines, which execute graphs."""
