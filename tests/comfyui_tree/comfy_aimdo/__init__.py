"""Stands in for the package comfy-aimdo, which pages weights to the device."""
