"""Puts a folder of workflows on Modal."""
