"""The server object that node packs use; it does not listen.

What all releases share; each release's ``server.py`` defines its arguments.
"""

import asyncio
import logging
import sys
import traceback
import types

import execution
from comfy.cli_args import args
from utils import extra_config  # fails when `comfy/utils.py` shadows the package

assert isinstance(extra_config, types.ModuleType)


class Routes:
    def __init__(self):
        self.known = []

    def get(self, path):
        def register(handler):
            self.known.append(path)
            return handler

        return register

    post = get


class Server:
    instance = None

    def __init__(self, loop):
        Server.instance = self
        if args.front_end_root is None:
            sys.exit(-1)
        self.loop = loop
        self.messages = asyncio.Queue()
        self.routes = Routes()
        self.app = types.SimpleNamespace(router=None)
        self.prompt_queue = execution.PromptQueue(self)
        self.client_id = None
        self.last_node_id = None
        self.handlers = []

    def add_on_prompt_handler(self, handler):
        self.handlers.append(handler)

    def trigger_on_prompt(self, data):
        for handler in self.handlers:
            try:
                data = handler(data)
            except Exception:
                logging.warning(traceback.format_exc())
        return data

    def send_sync(self, event, data, sid=None):
        self.loop.call_soon_threadsafe(self.messages.put_nowait, (event, data, sid))

    def queue_updated(self):
        self.send_sync("status", {})
