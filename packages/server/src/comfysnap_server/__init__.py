"""Serves ComfyUI workflows as typed APIs, on Modal with memory snapshots or on one machine."""
