"""Shared by the ComfyUI benchmarks: graphs, ComfyUI's server, and our processes."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parent.parent
CHILD: Final = Path(__file__).with_name("comfyui_child.py")
RANDOM_CHECKPOINT: Final = ROOT / "tests" / "server" / "engine" / "comfyui" / "random_checkpoint.py"
CHECKPOINT: Final = "random-sd15.safetensors"
PATIENCE: Final = 300.0
Graph = dict[str, Any]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node of a graph."""
    return {"class_type": kind, "inputs": inputs}


TRIVIAL: Final[Graph] = {
    "1": node("EmptyImage", width=64, height=64, batch_size=1, color=1),
    "9": node("SaveImage", images=["1", 0], filename_prefix="trivial"),
}
DIFFUSION: Final[Graph] = {
    "4": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
    "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "6": node("CLIPTextEncode", clip=["4", 1], text="a fox"),
    "7": node("CLIPTextEncode", clip=["4", 1], text=""),
    "3": node("KSampler", model=["4", 0], positive=["6", 0], negative=["7", 0],
              latent_image=["5", 0], seed=1, steps=2, cfg=7.0, sampler_name="euler",
              scheduler="normal", denoise=1.0),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", images=["8", 0], filename_prefix="diffusion"),
}  # fmt: skip


@dataclass(frozen=True)
class Comfy:
    """The ComfyUI to measure."""

    path: Path
    python: str

    @classmethod
    def from_env(cls) -> "Comfy":
        """From ``COMFYUI_PATH`` and ``COMFYUI_PYTHON``; exits if one is missing."""
        path, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFYUI_PYTHON")
        if not path or not python:
            sys.exit("set COMFYUI_PATH and COMFYUI_PYTHON")
        return cls(Path(path), python)

    def needs_checkpoint(self) -> None:
        """Create random weights in the checkout's models, if missing."""
        target = self.path / "models" / "checkpoints" / CHECKPOINT
        if not target.exists():
            command = [self.python, str(RANDOM_CHECKPOINT), str(self.path), str(target)]
            subprocess.run(command, check=True)

    def child(self, mode: str, request: dict[str, Any]) -> "subprocess.Popen[str]":
        """Start one of our processes; its standard output is lines of JSON."""
        sources = [ROOT / "packages" / name / "src" for name in ("schema", "server")]
        options = {"path": str(self.path), "custom_nodes": False, **request.pop("options", {})}
        return subprocess.Popen(
            [self.python, str(CHILD), mode, json.dumps({**request, "options": options})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))},
        )  # fmt: skip

    @contextmanager
    def server(self) -> Generator[tuple[httpx.Client, float]]:
        """Start ``main.py --cpu``; yields a client and the start time once it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
            started = time.perf_counter()
            process = subprocess.Popen(
                [self.python, "main.py", "--cpu", "--port", str(port), "--output-directory", folder,
                 "--disable-all-custom-nodes", "--disable-api-nodes"],
                cwd=self.path, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                    if not _answers_in_time(client, process):
                        log.seek(0)
                        text = "".join(log.readlines()[-15:]).strip()
                        sys.exit(f"main.py did not start (exit code {process.poll()}):\n{text}")
                    yield client, started
            finally:
                process.terminate()
                process.wait(30)


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Read the next line of one of our processes."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit(f"the process ended ({process.wait()}); run it by hand to see why")
    return json.loads(line)


def post(client: httpx.Client, graph: Graph, client_id: str = "bench") -> str:
    """Queue a prompt; returns its id."""
    answered = client.post("/prompt", json={"prompt": graph, "client_id": client_id})
    answered.raise_for_status()
    return str(answered.json()["prompt_id"])


def finished(client: httpx.Client, prompt_id: str) -> bool:
    """Whether the prompt is in the history; exits if it failed."""
    history = client.get(f"/history/{prompt_id}").json()
    if prompt_id not in history:
        return False
    if history[prompt_id]["status"]["status_str"] != "success":
        sys.exit("main.py could not run the graph")
    return True


def _answers_in_time(client: httpx.Client, process: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            client.get("/queue").raise_for_status()
        except httpx.TransportError:
            if process.poll() is not None:
                return False
            time.sleep(0.01)
        else:
            return True
    return False
