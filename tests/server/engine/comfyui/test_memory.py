"""Memory that is left: of the machine and of control groups of both versions."""

import os
from pathlib import Path

import pytest

from comfysnap_server.engine.comfyui.memory import Memory, memory

MIB = 1 << 20
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


class Machine:
    """Folders like ``/proc`` and ``/sys/fs/cgroup``."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1048576 kB\n")

    def belongs_to(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("\n".join(lines))

    def group(
        self, path: str, names: tuple[str, str, str], limit: int | str, used: int, cached: int
    ) -> None:
        folder = self.cgroups / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"other 7\n{names[2]} {cached}\nlast 1\n")

    def memory(self) -> Memory:
        return memory(self.cgroups, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_limit_the_machine_is_what_counts(machine: Machine) -> None:
    machine.belongs_to("0::/")
    machine.group("", V2, "max", 5, 0)
    assert machine.memory().available == 1 << 30
    assert machine.memory().total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [("0::/a/b", "a/b", V2), ("4:memory:/a/b", "memory/a/b", V1),
     ("4:cpu,memory:/a/b", "memory/a/b", V1)],
)  # fmt: skip
def test_a_group_of_either_version_limits_and_a_page_cache_can_be_dropped(
    machine: Machine, line: str, folder: str, names: tuple[str, str, str]
) -> None:
    machine.belongs_to("3:cpuset:/elsewhere", line)
    machine.group(folder, names, 100 * MIB, 90 * MIB, 30 * MIB)
    assert machine.memory() == Memory(100 * MIB, 40 * MIB)
    assert machine.memory().share == pytest.approx(0.4)


def test_the_tightest_of_all_ancestors_counts(machine: Machine) -> None:
    machine.belongs_to("0::/a/b")
    machine.group("a/b", V2, "max", 0, 0)
    machine.group("a", V2, 200 * MIB, 190 * MIB, 0)
    machine.group("", V2, 300 * MIB, 195 * MIB, 0)
    assert machine.memory() == Memory(200 * MIB, 10 * MIB)


def test_in_a_container_the_root_is_its_own_group(machine: Machine) -> None:
    machine.belongs_to("4:memory:/docker/0123")
    machine.group("memory", V1, 64 * MIB, 60 * MIB, 0)
    assert machine.memory() == Memory(64 * MIB, 4 * MIB)


def test_a_group_of_version_1_without_a_limit_has_none(machine: Machine) -> None:
    machine.belongs_to("4:memory:/")
    machine.group("memory", V1, 9223372036854771712, 60 * MIB, 0)
    assert machine.memory().available == 1 << 30


def test_a_group_over_its_limit_has_no_share_left(machine: Machine) -> None:
    machine.belongs_to("0::/")
    machine.group("", V2, 64 * MIB, 65 * MIB, 0)
    assert machine.memory().share == 0.0
