"""A real ComfyUI's own validation, in a process that answers over pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from comfysnap_schema.comfy.catalogue import Catalogue
from comfysnap_schema.comfy.graph import Graph


class RealComfy:
    """A ComfyUI process that answers over pipes."""

    def __init__(self, work: Path, files: list[str]) -> None:
        root = os.environ["COMFYUI_PATH"]
        script = Path(__file__).with_name("validate_prompts.py")
        python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        self._log = (work / "comfyui.log").open("w+")
        self._process = subprocess.Popen(
            [python, str(script), root, str(work)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # inputs are checked in a set's order
        )  # fmt: skip
        first = self._ask({"files": files})
        self.catalogue = Catalogue.parse(first["object_info"])
        self.names_cycles: bool = first["names_cycles"]
        self.own_checks: dict[str, list[str]] = first["own_checks"]
        self.checks_new_combos: bool = first["checks_new_combos"]
        self.tuples = {(class_type, name) for class_type, name in first["tuples"]}

    def validate(self, graph: Graph) -> dict[str, Any]:
        return self._ask({"graph": graph})

    def _ask(self, message: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._log.seek(0)
            raise ChildProcessError(f"ComfyUI ended:\n{self._log.read()[-4000:]}")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()
