"""Modal's control plane on loopback, to deploy apps and run their containers. See README.md."""

from tests.control_plane.containers import Container
from tests.control_plane.plane import ControlPlane
from tests.control_plane.state import Call, Function

__all__ = ["Call", "Container", "ControlPlane", "Function"]
