"""The command ``comfysnap``, and its commands about workflows."""

from comfysnap_schema.cli.command import COMMANDS_GROUP, build_app, main, register

__all__ = ["COMMANDS_GROUP", "build_app", "main", "register"]
