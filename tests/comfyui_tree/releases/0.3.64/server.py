from tree_server import Server as PromptServer

__all__ = ["PromptServer"]
