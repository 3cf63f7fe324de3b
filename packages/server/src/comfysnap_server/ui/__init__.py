"""ComfyUI's own interface, for ``comfysnap ui``."""
