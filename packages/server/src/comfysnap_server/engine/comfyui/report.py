"""What loading found: node packs, masked CUDA calls, and what a snapshot or a fork would mind."""

from dataclasses import dataclass, field

from comfysnap_server.engine.comfyui.mask import MaskedCall


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """One node pack, as it loaded or why it did not."""

    name: str
    loaded: bool
    seconds: float
    """With those of its ``prestartup_script.py``."""
    reason: str | None = None
    """Why it is not there; None when it is."""
    prestartup: bool | None = None
    """Whether its ``prestartup_script.py`` ran; None without one."""
    threads: tuple[str, ...] = ()
    """Threads it left running; a process with them must not be forked."""
    open_files: tuple[str, ...] = ()
    """Sockets and files opened for writing that it left behind: they break snapshots."""
    children: int = 0
    """Processes that it started and left."""
    after_restore: bool = False


@dataclass(kw_only=True)
class LoadReport:
    """What ``load`` and ``attach`` did."""

    version: str = ""
    tested: bool = True
    """Whether the tests ran on this version."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """By phase."""
    packs: list[PackReport] = field(default_factory=list[PackReport])
    masked_calls: list[MaskedCall] = field(default_factory=list[MaskedCall])
    devices: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    """Pack to the names that hold the hidden device; ``attach`` gives them the true one."""
    own_failures: list[str] = field(default_factory=list[str])
    """Files of ComfyUI's own nodes that did not import."""
    preloaded: dict[str, int] = field(default_factory=dict[str, int])
    """Preloaded weights, with their bytes."""
    notes: list[str] = field(default_factory=list[str])
    """What a person should know, one sentence each."""

    @property
    def unsafe_to_fork(self) -> list[str]:
        """The packs that left a thread behind; forking such a process can hang."""
        return [pack.name for pack in self.packs if pack.threads]
