from app.node_replace_manager import NodeReplaceManager
from tree_server import Server


class PromptServer(Server):
    def __init__(self, loop, asset_manager):
        super().__init__(loop)
        self.asset_manager = asset_manager
        self.node_replace_manager = NodeReplaceManager()
        asset_manager.register_routes(self.app, None)
        asset_manager.set_event_sink(self.send_sync)
