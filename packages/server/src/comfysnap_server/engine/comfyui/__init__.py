"""The engine that runs graphs on ComfyUI in this process: ``engine.ComfyUIEngine``.

Imports nothing: every command reads ``pins``, and few of them run the engine.
"""
