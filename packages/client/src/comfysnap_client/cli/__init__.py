"""The commands that call a server: ``infer``, ``status``, ``result``, ``cancel``, ``jobs``,
``limits``."""

from comfysnap_client.cli.commands import register
from comfysnap_client.cli.contracts import fetch_contracts

__all__ = ["fetch_contracts", "register"]
