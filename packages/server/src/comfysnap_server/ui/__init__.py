"""ComfyUI's own interface: its command, and the proxy before it."""
