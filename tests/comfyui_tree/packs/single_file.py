"""A pack of one file."""


class SingleFile:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return ("one file",)


NODE_CLASS_MAPPINGS = {"SingleFile": SingleFile}
