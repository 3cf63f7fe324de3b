"""The commands of the server."""

from comfysnap_server.cli.main import register

__all__ = ["register"]
