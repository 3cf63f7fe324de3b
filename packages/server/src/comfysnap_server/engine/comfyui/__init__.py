"""The engine that runs graphs on a real ComfyUI, in this process: ``engine.ComfyUIEngine``.

Nothing is imported here: every command reads ``pins``, and few of them run the engine.
"""
