"""The exceptions of the server.

    ComfysnapServerError
    ├── BackendError               a request that a backend refuses; see ``code``
    │   ├── DataFolderError        the data folder of a local server cannot be used
    │   ├── OutputStoreError       output files cannot be stored, or links not signed
    │   └── StorageError           the job store cannot be written
    ├── ProblemError               a request that the gateway refuses
    ├── EngineError                the job failed; the engine can run the next one
    ├── EngineInterrupted          the job was stopped on request
    ├── EngineChoiceError          unknown engine, or invalid options
    ├── EngineStartError           the engine cannot run jobs on this machine
    │   └── DeviceMissingError     no CUDA device where one is required
    ├── BrokenDeviceError          the GPU context is broken for the life of the process
    ├── CudaMaskedError            CUDA was used while it was hidden (also a RuntimeError)
    ├── UnsupportedComfyError      not a ComfyUI checkout that the engine supports
    ├── UnknownReleaseError        not a known version of ComfyUI (also a ValueError)
    ├── PreloadError               a model file cannot be preloaded (also a ValueError)
    ├── SafetensorsError           not a valid safetensors file (also a ValueError)
    ├── NodeError                  a simulated node cannot compute its result
    ├── InputUnavailableError      an input file of a job is gone or cannot be downloaded
    ├── FetchError                 a URL cannot be downloaded, or must not be
    ├── RemoteModelError           a model that a job names by URL cannot be used
    ├── WorkerLostError            a worker process died
    ├── WorkerStartError           no worker process could be started
    ├── InstallError               ComfyUI cannot be installed
    ├── LibraryPagesError          the pages of libraries that a job touches cannot be found
    ├── SelfTestError              an installed ComfyUI cannot run a job
    └── CommandError               a task of a command failed
        ├── KeyStoreError          a key cannot be added or revoked
        ├── ModelError             a model file cannot be downloaded, or there is no room for it
        ├── PackManifestError      snapshot.json cannot be installed as it is
        ├── PackFetchError         a node pack cannot be downloaded
        ├── PackInstallError       required node packs could not be installed
        ├── ProbeError             ComfyUI cannot be loaded
        ├── DemoError              the demo's server did not start
        └── BridgeError            a server cannot be used for MCP

Each is defined beside what raises it, except for those that several folders raise. Errors in
``comfysnap.toml`` and in workflows are ``SchemaError``: see ``comfysnap_schema.wire``.

The image build copies this module beside ``nodepacks``, so it imports only the standard library.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfysnap_schema.wire import ErrorCode


class ComfysnapServerError(Exception):
    """Base class of the exceptions that this package raises."""


class BackendError(ComfysnapServerError):
    """A request that the backend refuses; the gateway turns ``code`` into its problem response.

    Codes: ``unknown_job``, ``unknown_output``, ``output_expired``, ``unknown_file``,
    ``idempotency_mismatch``, ``queue_full``, ``quota_exceeded``, ``hash_mismatch``,
    ``file_too_large``, ``unavailable``.
    """

    def __init__(
        self,
        code: "ErrorCode",
        detail: str,
        *,
        retry_after: float | None = None,
        budget: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.budget = budget
        self.limit = limit
        super().__init__(detail)


class CommandError(ComfysnapServerError):
    """A task of a command failed.

    Args:
        code: Stable, for programs. The subclasses list theirs.
        message: What is wrong, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)
