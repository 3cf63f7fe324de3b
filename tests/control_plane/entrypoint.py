"""Starts Modal's container entrypoint, with the checkpoint file where the plane has it."""

import os
import runpy

from modal._runtime import gpu_memory_snapshot

gpu_memory_snapshot.RUNTIME_CHECKPOINT_WAIT_PATH = os.environ.pop("CONTROL_PLANE_CHECKPOINT_FILE")
runpy.run_module("modal._container_entrypoint", run_name="__main__", alter_sys=True)
