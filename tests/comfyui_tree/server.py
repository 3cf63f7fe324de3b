from app.node_replace_manager import NodeReplaceManager
from tree_server import Server


class PromptServer(Server):
    def __init__(self, loop):
        super().__init__(loop)
        self.node_replace_manager = NodeReplaceManager()
