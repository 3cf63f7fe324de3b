"""Report of a load: node packs, masked CUDA calls, and obstacles to snapshots and forks."""

from dataclasses import dataclass, field

from comfysnap_server.engine.comfyui.mask import MaskedCall


@dataclass(frozen=True, kw_only=True)
class PackReport:
    """Result of loading one node pack."""

    name: str
    loaded: bool
    seconds: float
    """Includes its ``prestartup_script.py``."""
    reason: str | None = None
    """Why it was not loaded; None if it was."""
    prestartup: bool | None = None
    """Whether its ``prestartup_script.py`` succeeded; None if it has none."""
    threads: tuple[str, ...] = ()
    """Threads it left running; the process must not be forked."""
    open_files: tuple[str, ...] = ()
    """Sockets and files opened for writing that it left behind; they break snapshots."""
    children: int = 0
    """Number of child processes it left running."""
    after_restore: bool = False


@dataclass(kw_only=True)
class LoadReport:
    """Result of ``load`` and ``attach``."""

    version: str = ""
    tested: bool = True
    """Whether the version is within the tested range."""
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """By phase."""
    packs: list[PackReport] = field(default_factory=list[PackReport])
    masked_calls: list[MaskedCall] = field(default_factory=list[MaskedCall])
    devices: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    """Per pack, names that hold the masked device; ``attach`` replaces it with the real one."""
    own_failures: list[str] = field(default_factory=list[str])
    """Files of ComfyUI's own nodes that could not be imported."""
    preloaded: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes of preloaded weights, by path."""
    library_bytes: int | None = None
    """Of libraries, that ``attach`` reads ahead at most; None if they were not found out."""
    notes: list[str] = field(default_factory=list[str])
    """Warnings, one sentence each."""

    @property
    def unsafe_to_fork(self) -> list[str]:
        """Packs that left threads running, with which a forked child can hang."""
        return [pack.name for pack in self.packs if pack.threads]
