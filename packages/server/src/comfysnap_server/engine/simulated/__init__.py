"""The engine that needs neither ComfyUI nor torch."""
