"""Takes the library when it is imported: one that is loaded later is never seen here."""

from comfy_aimdo import control

lib = control.lib
