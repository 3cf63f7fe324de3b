"""``comfysnap serve``: the server on this machine."""

import errno
import ipaddress
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import JsonValue

from comfysnap_schema.cli.options import NOT_ON_WINDOWS, ProjectOption
from comfysnap_schema.wire import SchemaError
from comfysnap_schema.workflow import (
    Project,
    Workflow,
    load_workflows,
    locate_project,
    read_project,
)
from comfysnap_server.cli.keys import KeysFileOption

if TYPE_CHECKING:
    from comfysnap_server.gateway import GatewayServer, Keys, Metrics
    from comfysnap_server.jobs import WebhookSender, WebhookSettings
    from comfysnap_server.serve_settings import ServeSettings

_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


class EngineChoice(StrEnum):
    """Values of ``--engine``."""

    AUTO = "auto"
    SIMULATED = "simulated"
    COMFYUI = "comfyui"


class LogChoice(StrEnum):
    """Values of ``--log-format``."""

    TEXT = "text"
    JSON = "json"


class AuthChoice(StrEnum):
    """Values of ``--auth``."""

    NONE = "none"
    KEYS = "keys"
    PROXY = "proxy"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0: any free port.")] = 8000,
    engine: Annotated[
        EngineChoice,
        typer.Option(help="Engine that runs the graphs. auto: ComfyUI if it is installed."),
    ] = EngineChoice.AUTO,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Engine option, VALUE as JSON. Repeatable."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda|0,1,...",
            help="Devices of the workers. auto: the GPU if there is one. cuda: fail without a GPU. "
            "0,1: these GPUs, a worker for each. Default: serve.local.devices, else auto.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of worker processes, spread over the devices; each runs one job at a "
            "time. Default: serve.local.workers, else one for each device.",
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder for jobs and their files, kept when the server stops.")
    ] = Path(".comfysnap"),
    project: ProjectOption = None,
    keys: KeysFileOption = None,
    auth: Annotated[
        AuthChoice | None,
        typer.Option(help="Authentication. Default: serve.auth of the project, else none."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log each request and its id.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Log only warnings and errors.")
    ] = False,
    log_format: Annotated[
        LogChoice | None,
        typer.Option(
            help="Format of the log. Default: serve.log_format of the project, else text."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Also serve the metrics at this port, without authentication."
        ),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for --metrics-port.")] = "127.0.0.1",
    reload: Annotated[
        bool,
        typer.Option(
            "--reload", help="Restart when comfysnap.toml or a workflow changes; jobs are kept."
        ),
    ] = False,
    until_stdin_closes: Annotated[
        bool,
        typer.Option(
            "--until-stdin-closes",
            help="Stop when stdin closes, for programs that start the server.",
        ),
    ] = False,
) -> None:
    """Serve the workflows of a project on this machine.

    Example: comfysnap serve --port 8000
    """
    from comfysnap_server.errors import BackendError, CommandError

    refuse_windows()
    if reload:
        from comfysnap_server.cli.reload import serve_and_reload

        raise typer.Exit(serve_and_reload(locate_project(project), sys.argv[1:]))
    try:
        loaded = _load(project, auth)
        _configure_logging(log_format or loaded.settings.log_format, verbose=verbose, quiet=quiet)
        chosen = _on_devices(
            _engine(engine, _options(engine_option or [])),
            devices or loaded.settings.local.devices,
            workers or loaded.settings.local.workers,
        )
        metrics = _make_metrics(metrics_host, metrics_port)
        server = _make_server(loaded, chosen, auth, host, port, data, keys, metrics)
    except SchemaError:
        raise  # printed by main
    except (ValueError, CommandError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    if until_stdin_closes:
        threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    try:
        server.run()
    except BackendError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except SystemExit as ended:  # of uvicorn, while it handled the reason
        print(f"error: {_not_listening(host, port, ended.__context__)}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if server.failure is not None:
        print(f"error: the engine cannot be loaded: {server.failure}", file=sys.stderr)
        raise typer.Exit(2)


def refuse_windows() -> None:
    """Exit where worker processes cannot be forked."""
    if sys.platform == "win32":
        print(f"error: {NOT_ON_WINDOWS}", file=sys.stderr)
        raise typer.Exit(2)


def _not_listening(host: str, port: int, reason: BaseException | None) -> str:
    if isinstance(reason, OSError) and reason.errno == errno.EADDRINUSE:
        return (
            f"{host}:{port} is in use by another program: choose another port with --port, "
            "0 for any free one"
        )
    why = f": {reason.strerror}" if isinstance(reason, OSError) else ""
    return f"cannot listen on {host}:{port}{why}; use another --host or --port"


def _configure_logging(form: str, *, verbose: bool, quiet: bool) -> None:
    from comfysnap_server.logs import FORMAT_VARIABLE, OncePerMinute, formatter

    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form))
    logging.basicConfig(handlers=[handler])
    uvicorn = logging.getLogger("uvicorn.error")
    # it logs why it cannot listen, which the command prints, and requests that are not HTTP
    uvicorn.addFilter(lambda line: not isinstance(line.msg, OSError))
    uvicorn.addFilter(OncePerMinute())
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    for name in ("comfysnap", "comfysnap_server"):
        logging.getLogger(name).setLevel(level)
    os.environ[FORMAT_VARIABLE] = form  # for the worker processes


def _make_metrics(host: str, port: int | None) -> "Metrics":
    from comfysnap_server.gateway import Metrics

    metrics = Metrics()
    if port is not None:
        from prometheus_client import start_http_server

        try:
            start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise ValueError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    return metrics


@dataclass(frozen=True)
class _Loaded:
    project: Project
    settings: "ServeSettings"
    workflows: Mapping[str, Workflow]


@dataclass(frozen=True)
class _Engine:
    name: str
    options: dict[str, JsonValue]
    python: str | None = None
    gpus: tuple[int, ...] = ()
    workers: int | None = None


def _load(given: Path | None, auth: AuthChoice | None) -> _Loaded:
    from comfysnap_server.serve_settings import read_serve

    project = read_project(locate_project(given))
    settings = read_serve(project, auth.value if auth else None)
    workflows = load_workflows(project.workflows)
    if project.default is not None and project.default not in workflows:
        raise project.unknown_workflow(project.default, workflows, "default")
    return _Loaded(project, settings, workflows)


def _make_server(
    loaded: _Loaded,
    engine: _Engine,
    auth: AuthChoice | None,
    host: str,
    port: int,
    data: Path,
    keys_file: Path | None,
    metrics: "Metrics",
) -> "GatewayServer":
    from comfysnap_server.backends.local import LocalBackend
    from comfysnap_server.gateway import (
        LINK_KEY_FILE,
        GatewayServer,
        LinkedBackend,
        LinkKeyFile,
        create_app,
        raise_descriptor_limit,
    )
    from comfysnap_server.jobs import open_output_store

    raise_descriptor_limit()
    settings = loaded.settings
    settings = _restrict_hosts(settings, host, auth)
    outputs = open_output_store(settings.outputs)
    keys = _watched_keys(settings, keys_file, data) if settings.auth == "keys" else None
    backend = LocalBackend(
        data,
        engine=engine.name,
        engine_options=engine.options,
        python=engine.python,
        gpus=engine.gpus,
        workers=engine.workers,
        limits=settings.local,
        on_end=metrics.ended,
        outputs=outputs,
        remote_models=settings.remote_models,
        webhooks=_webhook_sender(settings.webhooks),
    )
    served = backend if outputs is None else LinkedBackend(backend, outputs)
    default = loaded.project.default
    app = create_app(
        served, loaded.workflows, settings, default=default, keys=keys, metrics=metrics,
        link_key=LinkKeyFile(data / LINK_KEY_FILE),
    )  # fmt: skip

    def announce(url: str) -> None:
        _announce(url, engine, data, loaded.workflows.values(), default)

    return GatewayServer(
        app, host=host, port=port, announce=announce, failure=lambda: backend.start_failure
    )


def _webhook_sender(settings: "WebhookSettings") -> "WebhookSender | None":
    from comfysnap_server.jobs import SECRET_VARIABLE, WebhookSender, webhook_keys

    if not settings.enabled:
        return None
    return WebhookSender(settings, webhook_keys(os.environ.get(SECRET_VARIABLE)))


def _watched_keys(settings: "ServeSettings", given: Path | None, data: Path) -> "Keys":
    from comfysnap_server.gateway import KEYS_FILE, KeyFile, WatchedKeys, records_of

    file = KeyFile(given or data / KEYS_FILE)
    if not file.read().keys and not settings.keys:
        raise ValueError(
            f'auth = "keys", but there is no key in {file.where}: run `comfysnap keys add NAME`'
        )
    return WatchedKeys(file.path, records_of(settings.keys))


def _announce(
    url: str, engine: _Engine, data: Path, workflows: Iterable[Workflow], default: str | None
) -> None:
    # programs read the address at the end of the first line and wait for the line with Ctrl-C
    note = " (placeholder images, no model runs)" if engine.name == "simulated" else ""
    print(f"comfysnap is running on {url}\nengine: {engine.name}{note}\npage: {url}/")
    workers = engine.workers or len(engine.gpus)
    if workers > 1:
        on = f" on GPU {', '.join(map(str, engine.gpus))}" if engine.gpus else ""
        print(f"workers: {workers}{on}")
    print(f"jobs and files: {data.resolve()}")
    served = list(workflows)
    for workflow in served:
        mark = " (default)" if workflow.name == default else ""
        print(f"  POST {url}/infer_sync/{workflow.name}{mark}  {workflow.spec.title}".rstrip())
    print(f"docs: {url}/docs")
    for workflow in sorted(served, key=lambda each: each.name != default)[:1]:
        print(f"call it: {_call(workflow, url)}")
    print("Ctrl-C stops the server; jobs are kept.", flush=True)


def _call(workflow: Workflow, url: str) -> str:
    """The command that runs a workflow, with the inputs that it must have."""
    required = [f"{name}=..." for name, each in workflow.parameters.items() if each.required]
    return " ".join(["comfysnap infer", workflow.name, *required, "--url", url])


def _restrict_hosts(
    settings: "ServeSettings", host: str, auth: AuthChoice | None
) -> "ServeSettings":
    """Without authentication, only allow requests from this machine, to its own host names."""
    if settings.auth != "none":
        return settings
    if _is_loopback(host):
        return settings.model_copy(update={"hosts": settings.hosts or (*_LOOPBACK_NAMES, host)})
    if auth is not AuthChoice.NONE:
        raise ValueError(
            f'{host} is reachable from other machines without authentication: set auth = "keys" in '
            "[serve] (`comfysnap keys add NAME` creates a key), or use --auth none to allow it"
        )
    return settings


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _engine(choice: EngineChoice, options: dict[str, JsonValue]) -> _Engine:
    from comfysnap_server.engine.comfyui.install import find_comfyui

    found = find_comfyui()
    if choice is EngineChoice.SIMULATED or (choice is EngineChoice.AUTO and not found):
        return _Engine("simulated", options)
    if found is None and "path" not in options:
        raise ValueError(
            "no ComfyUI found: run `comfysnap comfyui install`, or set COMFYUI_PATH to a checkout "
            "and COMFYUI_PYTHON to its interpreter"
        )
    python = found.python if found else os.environ.get("COMFYUI_PYTHON")
    options = {**({"path": found.path} if found else {}), **options}
    _check_comfyui(Path(str(options["path"])), python)
    return _Engine("comfyui", options, python)


def _check_comfyui(checkout: Path, python: str | None) -> None:
    """Fail at start rather than with every worker."""
    from comfysnap_server.pins import UnsupportedComfyError, read_version

    try:
        read_version(checkout)
    except UnsupportedComfyError as error:
        raise ValueError(f"{error}; set COMFYUI_PATH to a checkout") from error
    if python is not None and shutil.which(python) is None:
        raise ValueError(f"COMFYUI_PYTHON is not an interpreter: {python}")


def _on_devices(engine: _Engine, devices: str, workers: int | None) -> _Engine:
    """The engine with its devices; the simulated one only pretends to have those of ``0,1``."""
    gpus = _gpus(devices)
    engine = replace(engine, gpus=gpus, workers=workers)
    if workers is not None and workers < len(gpus):
        raise ValueError(f"--workers must be at least {len(gpus)}, a worker for each device")
    if engine.name != "comfyui":
        if devices == "cuda":
            raise ValueError("--devices cuda: the simulated engine does not use a GPU")
        return engine
    if devices == "auto":
        return engine
    for option in ("--cuda-device", "--default-device") if gpus else ():
        if option in str(engine.options.get("arguments")):
            raise ValueError(f"--devices {devices} and {option} exclude each other")
    if devices != "cpu":
        _check_cuda(engine.python or sys.executable, devices, gpus)
    device = "cpu" if devices == "cpu" else "cuda"
    return replace(engine, options={**engine.options, "device": device})


def _gpus(devices: str) -> tuple[int, ...]:
    if devices in ("auto", "cpu", "cuda"):
        return ()
    named = [part.strip() for part in devices.split(",")]
    if not all(part.isascii() and part.isdigit() for part in named):
        raise ValueError(f"--devices must be auto, cpu, cuda or indices like 0,1, got {devices!r}")
    gpus = tuple(map(int, named))
    if len(set(gpus)) < len(gpus):
        raise ValueError(f"--devices {devices}: duplicate index; for more on one, use --workers")
    return gpus


def _check_cuda(python: str, devices: str, gpus: tuple[int, ...]) -> None:
    """Fail at start rather than at the first job."""
    done = subprocess.run(
        [python, "-c", "import torch; torch.cuda.init(); print(torch.cuda.device_count())"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["torch.cuda.init() failed"])[-1]
        raise ValueError(f"--devices {devices}: no CUDA device: {reason}")
    found = int(done.stdout.split()[-1])
    if max(gpus, default=0) >= found:
        raise ValueError(f"--devices {devices}: torch.cuda finds {found} devices, from 0")


def _options(pairs: list[str]) -> dict[str, JsonValue]:
    """Parse ``KEY=VALUE``; a value that is not valid JSON is a string."""
    options: dict[str, JsonValue] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--engine-option must be KEY=VALUE, got {pair!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _stop_at_end_of_input(server: "GatewayServer") -> None:
    while os.read(0, 4096):  # sys.stdin has a lock that a thread must not hold at exit
        pass
    server.stop()
