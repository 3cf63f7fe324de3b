"""``comfysnap demo``: generates an image with a temporary server and a typed client."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Final, NoReturn

import typer

from comfysnap_server.cli.serve import EngineChoice, refuse_windows
from comfysnap_server.errors import CommandError

_PROJECT: Final = Path(__file__).parents[1] / "demo" / "comfysnap.toml"
_COMFYSNAP: Final = (sys.executable, "-c", "from comfysnap_schema.cli.command import main; main()")
_CLIENT: Final = (sys.executable, "-m", "comfysnap_client.cli.demo")
_STOP_S: Final = 10.0

_EXAMPLE: Final = """\
In Python, with `comfysnap serve` running (for example in `python -m asyncio`):

from comfysnap_client import Client
from comfysnap_schema.workflows.flux import FluxInput
async with Client("http://127.0.0.1:8000") as client:
    out = await client.infer_sync(FluxInput(prompt={prompt!r}))
    await out.images[0].save("picture.png")
"""


class DemoError(CommandError):
    """The demo's server did not start. Code: ``not_started``."""


def demo(
    prompt: Annotated[str, typer.Argument(help="Prompt of the image.")] = "a fox in the snow",
    out: Annotated[Path, typer.Option(help="Folder for the image.")] = Path("comfysnap-out"),
    engine: Annotated[
        EngineChoice,
        typer.Option(help="Engine that runs the graph. simulated needs no model or GPU."),
    ] = EngineChoice.SIMULATED,
    open_page: Annotated[
        bool,
        typer.Option("--open", help="Then open the workflow's page, and serve it until Ctrl-C."),
    ] = False,
) -> None:
    """Generate an image with a temporary server and a typed client. Ctrl-C cancels.

    Example: comfysnap demo "a fox in the snow" --out images
    """
    refuse_windows()
    for name in ("SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, _interrupt)
    try:
        code = _run(prompt, out, engine, open_page=open_page)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        print("interrupted: cancelled the job and stopped the server", file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def _run(prompt: str, out: Path, engine: EngineChoice, *, open_page: bool) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="comfysnap-demo-") as data,
        _server(Path(data), engine) as (server, url, engine_line),
    ):
        print(f"server: {url}\n{engine_line}", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        code = _client(url, prompt, out)
        if code == 0:
            if engine_line.startswith("engine: simulated"):
                print("This image is a placeholder: the simulated engine does not run a model.")
            print("\n" + _EXAMPLE.format(prompt=prompt), end="")
            if open_page:
                _show_page(server, f"{url}/w/flux")
    return code


def _show_page(server: subprocess.Popen[str], page: str) -> None:
    """Open a page of the server, which then runs until Ctrl-C."""
    print(f"\npage: {page}\nCtrl-C stops the server; jobs of the demo are not kept.", flush=True)
    # some browsers are only left when they are closed
    threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
    try:
        server.wait()
    except KeyboardInterrupt:
        print("stopped the server", file=sys.stderr)


@contextmanager
def _server(data: Path, engine: EngineChoice) -> Generator[tuple[subprocess.Popen[str], str, str]]:
    """Run a server for the block; it also stops when this process ends.

    Yields:
        Its process, its URL and the line with its engine.
    """
    process = subprocess.Popen(
        [*_COMFYSNAP, "serve", "--port=0", "--project", str(_PROJECT), "--engine", engine,
         "--data", str(data), "--auth=none", "--until-stdin-closes", "--quiet"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 -- stdin=PIPE
    assert process.stdout is not None  # noqa: S101
    try:
        yield process, *_read_address(process.stdout)
    finally:
        process.stdin.close()
        _end(process)
        process.stdout.close()


def _read_address(lines: IO[str]) -> tuple[str, str]:
    """URL and engine line from the server's output; the rest of it is discarded."""
    url = engine = ""
    for line in lines:
        if found := re.search(r"http://\S+", line):
            url = found[0]
        if line.startswith("engine:"):
            engine = line.strip()
            threading.Thread(target=lines.read, daemon=True).start()
            return url, engine
    raise DemoError("not_started", "the server did not start")


def _client(url: str, prompt: str, out: Path) -> int:
    process = subprocess.Popen(
        [*_CLIENT, url, prompt, str(out)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        raise
    finally:
        _end(process)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
