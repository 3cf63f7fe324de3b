"""Where the files of jobs lie in the data folder."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobFolders:
    """Where the files of jobs lie, in a folder per job."""

    data: Path
    """Absolute: the worker need not have this process's working folder."""

    @property
    def inputs(self) -> Path:
        """The folders of ``input``."""
        return self.data / "inputs"

    @property
    def outputs(self) -> Path:
        """The folders of ``output``."""
        return self.data / "jobs"

    @property
    def files(self) -> Path:
        """Uploaded files."""
        return self.data / "files"

    @property
    def scratch(self) -> Path:
        """What engines keep on the disk between jobs."""
        return self.data / "scratch"

    @property
    def model_cache(self) -> Path:
        """Models that jobs named by URL."""
        return self.data / "model_cache"

    def input(self, job_id: str) -> Path:
        """Input files under the names of the graph, while the job runs."""
        return self.inputs / job_id

    def output(self, job_id: str) -> Path:
        """The files of the result."""
        return self.outputs / job_id

    def output_bytes(self, job_id: str) -> int:
        """Size of the files of the result."""
        try:
            with os.scandir(self.output(job_id)) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except OSError:
            return 0

    def no_input(self, slot: int) -> Path:
        """The input folder of every job without files on one worker, which empties it."""
        return self.inputs / f"none-{slot}"

    def not_empty(self) -> Path | None:
        """One of the folders that ``make`` empties, if there is anything in it."""
        folders = (folder for folder in (self.inputs, self.scratch) if folder.is_dir())
        return next((folder for folder in folders if any(folder.iterdir())), None)

    def make(self) -> None:
        """Make the folders that hold those of the jobs, without what an earlier life left in those
        that it was to empty."""
        for folder in (self.inputs, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.inputs, self.outputs, self.scratch):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # that of an older version too
        for part in [*self.data.glob("*.part"), *self.files.glob("incoming/*.part")]:
            part.unlink()

    def delete(self, job_id: str) -> None:
        """Delete all files of a job."""
        for folder in (self.input(job_id), self.output(job_id)):
            shutil.rmtree(folder, ignore_errors=True)
