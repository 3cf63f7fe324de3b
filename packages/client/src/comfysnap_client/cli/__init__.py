"""The commands that call a server: ``infer``, ``status``, ``result``, ``cancel``, ``jobs``,
``limits``."""

from comfysnap_client.cli.commands import register

__all__ = ["register"]
