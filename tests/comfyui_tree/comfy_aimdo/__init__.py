"""Fake of the package comfy-aimdo, which pages weights to the device."""
