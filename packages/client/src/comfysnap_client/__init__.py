"""A typed async client for ComfyUI workflows served by comfysnap."""
