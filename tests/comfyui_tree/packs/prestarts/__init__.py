"""Depends on its prestartup script."""

import os

WHAT = os.environ["COMFYSNAP_TEST_PRESTARTUP"]


class Prestarted:
    RETURN_TYPES, FUNCTION, CATEGORY = ("STRING",), "run", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (WHAT,)


NODE_CLASS_MAPPINGS = {"Prestarted": Prestarted}
