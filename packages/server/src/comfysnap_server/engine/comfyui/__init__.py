"""The engine that runs graphs on a real ComfyUI, in this process."""

from comfysnap_server.engine.comfyui.engine import ComfyUIEngine

__all__ = ["ComfyUIEngine"]
