"""Adds a route, and looks at what else the server has."""

from server import PromptServer

server = PromptServer.instance


@server.routes.get("/comfysnap-test")
async def answer(request):
    return request


assert server.app is not None
assert server.loop is not None
assert server.prompt_queue is not None
server.send_sync("comfysnap.test", {"hello": 1})


class HasRoutes:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        server.send_sync("comfysnap.test", {"hello": 2})
        return (str(server.loop.is_running()),)


NODE_CLASS_MAPPINGS = {"HasRoutes": HasRoutes}
