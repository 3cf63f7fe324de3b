"""Stores the library on import, and does not see one that is loaded later."""

from comfy_aimdo import control

lib = control.lib
