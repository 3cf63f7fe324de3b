"""Effects of real node packs on a ComfyUI that is loaded as for a snapshot, with CUDA hidden.

Each pack is loaded in its own process, then all of them in one. In each process the packs' graphs
run in a fork (as the local backend starts its workers), then twice in the process itself. Target:
every pack loads, and every graph runs and has the same outputs each time.

    export COMFYUI_PATH=... COMFYUI_PYTHON=...   (a copy: packs write into ComfyUI's folder)
    uv run python benchmarks/node_packs.py [FOLDER] [--graphs FOLDER] [--quick]

FOLDER holds the packs as ``custom_nodes`` does (default: COMFYSNAP_NODE_PACKS). A graph lies in
``GRAPHS/<pack's folder>.json``: ``{"graph": API export, "outputs": {name: {"node": ...}}}``, the
outputs as in ``workflow.toml``; a pack without one is only loaded. ``--quick`` loads all packs in
one process alone. docs/guides/node-packs.md explains the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from comfyui_bench import ROOT, Comfy

CHILD: Final = Path(__file__).with_name("node_packs_child.py")
GRAPHS: Final = ROOT / "tests" / "live" / "node_packs"
LIMIT: Final = 600.0
"""Seconds for one process."""
COLUMNS: Final = ("pack", "load s", "RSS MiB", "CUDA calls", "threads", "files", "fork", "graph",
                  "again", "setting")  # fmt: skip
Row = tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    comfy: Comfy
    packs: Path
    graphs: Path
    after_restore: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The packs of the folder."""
        found = [path for path in self.packs.iterdir() if path.name != "__pycache__"]
        return sorted(path.name for path in found if path.is_dir() or path.suffix == ".py")

    def measure(self, names: Sequence[str]) -> dict[str, Any]:
        """Load these packs in a new process and run their graphs; the child's answer."""
        graphs = {name: self.graphs / f"{name}.json" for name in names}
        with tempfile.TemporaryDirectory() as folder:
            paths = Path(folder) / "paths.yaml"
            paths.write_text(f"measured:\n    custom_nodes: {self.packs}\n", encoding="utf-8")
            options = {
                "path": str(self.comfy.path),
                "extra_model_paths": [str(paths)],
                "disabled_nodes": [name for name in self.names if name not in names],
                "after_restore": list(self.after_restore),
                "mask_cuda": True,
            }
            request = {
                "packs": str(self.packs),
                "options": options,
                "graphs": {n: json.loads(f.read_text()) for n, f in graphs.items() if f.is_file()},
            }
            return self._ask(request)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        sources = [ROOT / "packages" / name / "src" for name in ("schema", "server")]
        done = subprocess.run(
            [self.comfy.python, str(CHILD), json.dumps(request)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=LIMIT, check=False,
        )  # fmt: skip
        if done.returncode != 0 or not done.stdout:
            sys.exit(f"the process ended ({done.returncode}):\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def packs_of(answer: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The reports of these packs, without those that ComfyUI ships."""
    return [pack for pack in answer["packs"] if pack["name"] in names]


def row(title: str, answer: dict[str, Any], names: Sequence[str]) -> Row:
    """One line of the table."""
    packs = packs_of(answer, names)
    seconds = sum(pack["seconds"] for pack in packs) if len(names) == 1 else answer["seconds"]
    calls = [call for call in answer["calls"] if call["pack"] in names]
    refused = sum(call["count"] for call in calls if call["refused"])
    files = [file for pack in packs for file in pack["open_files"]]
    first, again = answer["first"], answer["again"]
    failed = [name for name, made in first.items() if "error" in made]
    return (
        title,
        f"{seconds:.2f}",
        str(answer["resident"]),
        f"{sum(call['count'] for call in calls)}" + (f" ({refused} refused)" if refused else ""),
        str(sum(len(pack["threads"]) for pack in packs)),
        str(len(files)),
        fork(answer),
        "-" if not first else "fails" if failed else "runs",
        "-" if not first else "same" if first == again else "differs",
        "; ".join(filter(None, (setting(pack, answer) for pack in packs))) or "-",
    )


def fork(answer: dict[str, Any]) -> str:
    """Whether the local backend would fork this process, and whether a fork ran the graphs."""
    if answer["threads"]:
        return "no: threads"
    if isinstance(answer["fork"], str):
        return answer["fork"]
    return "yes" if answer["fork"] == answer["first"] else "differs"


def setting(pack: dict[str, Any], answer: dict[str, Any]) -> str:
    """Recommended engine option or deployment setting."""
    name = pack["name"]
    if pack["after_restore"]:
        return ""
    if any(call["refused"] for call in answer["calls"] if call["pack"] == name):
        return f'after_restore = ["{name}"]'
    if not pack["threads"] and not pack["open_files"]:
        return ""
    out = f'leave it out: disabled_nodes = ["{name}"]'
    # its prestartup script would run before the restore all the same
    return out if pack["prestartup"] is not None else f'{out}, or after_restore = ["{name}"]'


def missed(answer: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Missed targets, one sentence each."""
    for pack in packs_of(answer, names):
        if pack["reason"] is not None:
            yield f"{pack['name']} does not load: {pack['reason']}"
    for name in answer["first"]:
        for made in (answer["first"][name], answer["again"][name]):
            if "error" in made:
                yield f"{name}: its graph fails: {made['error']}"
        if answer["first"][name] != answer["again"][name]:
            yield f"{name}: its graph has different outputs the second time"
    if not answer["threads"] and answer["fork"] != answer["first"]:
        yield f"{', '.join(names)}: in a fork: {json.dumps(answer['fork'])[:500]}"


def remarks(answer: dict[str, Any], alone: dict[str, Any]) -> Iterator[str]:
    """Process-wide changes by packs."""
    yield from (f"replaces {name}" for name in answer["replaced"])
    before, after = alone["state"], answer["state"]
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield f"{name}: {old} -> {new}"
    for pack, places in answer["devices"].items():
        yield f"{pack} stored its device at import ({', '.join(places)}); attach sets the real one"
    for pack in answer["packs"]:
        for left in (*pack["threads"], *pack["open_files"]):
            yield f"{pack['name']} leaves {left}"


def show(rows: Sequence[Row]) -> None:
    """Print the table as Markdown."""
    widths = [max(len(cell) for cell in column) for column in zip(COLUMNS, *rows, strict=True)]
    for line in (COLUMNS, tuple("-" * width for width in widths), *rows):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def main() -> int:
    """Load, run and print; returns 1 if a pack does not load or a graph fails."""
    parser = argparse.ArgumentParser(prog="node_packs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("COMFYSNAP_NODE_PACKS"))
    parser.add_argument("--graphs", type=Path, default=GRAPHS, help="Folder of the packs' graphs.")
    parser.add_argument("--after-restore", nargs="*", default=(), metavar="PACK",
                        help="Packs to load after the restore.")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="All packs in one process alone.")
    given = parser.parse_args()
    comfy = Comfy.from_env()
    if not given.folder:
        sys.exit("pass the folder of the node packs, or set COMFYSNAP_NODE_PACKS")
    setup = Setup(comfy, Path(given.folder).resolve(), given.graphs, given.after_restore)
    names = setup.names
    alone = setup.measure([])
    print(f"ComfyUI {alone['version']}, CUDA hidden, {os.cpu_count()} cores\n")
    measured = {} if given.quick else {name: ([name], setup.measure([name])) for name in names}
    measured["all together"] = (names, setup.measure(names))
    show([row("ComfyUI alone", alone, []), *(row(t, a, n) for t, (n, a) in measured.items())])
    problems: list[str] = []
    for title, (loaded, answer) in measured.items():
        print(f"\n{title}")
        for remark in remarks(answer, alone):
            print(f"- {remark}")
        problems += missed(answer, loaded)
    if problems:
        print("\nMissed targets")
        for problem in dict.fromkeys(problems):
            print(f"- {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
