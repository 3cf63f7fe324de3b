"""The registry of node states, and its handlers."""


class ProgressHandler:
    def __init__(self, name):
        self.name, self.enabled = name, True

    def set_registry(self, registry):
        pass

    def start_handler(self, node_id, state, prompt_id):
        pass

    def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
        pass

    def finish_handler(self, node_id, state, prompt_id):
        pass


class Registry:
    def __init__(self, prompt_id, dynprompt):
        self.prompt_id, self.dynprompt = prompt_id, dynprompt
        self.nodes, self.handlers = {}, {}

    def register_handler(self, handler):
        self.handlers[handler.name] = handler

    def unregister_handler(self, name):
        self.handlers.pop(name, None)

    def start_progress(self, node_id):
        state = self.nodes[node_id] = {"value": 0.0, "max": 1.0}
        for handler in self.handlers.values():
            handler.start_handler(node_id, state, self.prompt_id)

    def update_progress(self, node_id, value, max_value, image=None):
        state = self.nodes[node_id] = {"value": value, "max": max_value}
        for handler in self.handlers.values():
            handler.update_handler(node_id, value, max_value, state, self.prompt_id, image)

    def finish_progress(self, node_id):
        state = self.nodes.setdefault(node_id, {"value": 1.0, "max": 1.0})
        for handler in self.handlers.values():
            handler.finish_handler(node_id, state, self.prompt_id)


class WebUIProgressHandler(ProgressHandler):
    def __init__(self, server):
        super().__init__("webui")
        self.server = server

    def _tell(self, node_id, state, prompt_id):
        self.server.send_sync("progress_state", {node_id: state}, self.server.client_id)

    start_handler = finish_handler = _tell


_registry = Registry("", None)


def reset_progress_state(prompt_id, dynprompt):
    global _registry
    _registry = Registry(prompt_id, dynprompt)


def get_progress_state():
    return _registry


def add_progress_handler(handler):
    handler.set_registry(_registry)
    _registry.register_handler(handler)
