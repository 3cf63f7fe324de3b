"""Adds a route, and uses other attributes of the server."""

from server import PromptServer

server = PromptServer.instance


@server.routes.get("/comfysnap-test")
async def answer(request):
    return request


assert server.app is not None
assert server.loop is not None
assert server.prompt_queue is not None
server.send_sync("comfysnap.test", {"hello": 1})


def rewrite(posted):
    """Fills in placeholders of a graph; some graphs make it return nothing or raise."""
    for entry in posted["prompt"].values():
        text = entry["inputs"].get("text")
        if text == "{number}":
            entry["inputs"]["text"] = "17"
        elif text == "{nothing}":
            return None
        elif text == "{raise}":
            raise ValueError(text)
    return posted


server.add_on_prompt_handler(rewrite)


class HasRoutes:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        server.send_sync("comfysnap.test", {"hello": 2})
        return (str(server.loop.is_running()),)


class KnowsItsPrompt(HasRoutes):
    def run(self):
        return (server.last_prompt_id,)


NODE_CLASS_MAPPINGS = {"HasRoutes": HasRoutes, "KnowsItsPrompt": KnowsItsPrompt}
