"""Starts Modal's container entrypoint with the plane's checkpoint file and environment file."""

import ctypes
import importlib
import os
import runpy
import signal
import sys
from pathlib import Path

# die with the control plane, frozen or not: PR_SET_PDEATHSIG of linux/prctl.h
ctypes.CDLL(None).prctl(1, signal.SIGKILL)

# mount paths lead through this descriptor to the container's own views of its volumes
folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
os.dup2(folder, int(os.environ.pop("CONTROL_PLANE_FOLDER_DESCRIPTOR")))
os.close(folder)

plan = os.environ.pop("CONTROL_PLANE_ROOT", "")
if plan:
    importlib.import_module("isolation").enter(Path(plan))

# behind what the interpreter has itself: modal, for an interpreter without it
sys.path += os.environ.pop("CONTROL_PLANE_MODULES").split(os.pathsep)


def patch(module: str, name: str, variable: str) -> None:
    vars(importlib.import_module(module))[name] = os.environ.pop(variable)


runtime = "modal._runtime.gpu_memory_snapshot", "RUNTIME_CHECKPOINT_WAIT_PATH"
patch(*runtime, "CONTROL_PLANE_CHECKPOINT_FILE")
lifecycle = "modal._runtime.task_lifecycle_manager", "SPEC_ENVIRON_PATH"
patch(*lifecycle, "CONTROL_PLANE_ENVIRONMENT_FILE")
runpy.run_module("modal._container_entrypoint", run_name="__main__", alter_sys=True)
