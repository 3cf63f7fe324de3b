"""Errors of models, node packs, the doctor and the demo.

    CommandError
    ├── ModelError             a model file cannot be downloaded, or there is no room for it
    ├── PackManifestError      snapshot.json cannot be installed as it is
    ├── PackFetchError         a node pack cannot be downloaded
    ├── PackInstallError       required node packs could not be installed
    ├── ProbeError             ComfyUI cannot be loaded
    └── DemoError              the demo's server did not start

Each is defined beside what raises it. Errors in ``comfysnap.toml`` and in workflows are
``SchemaError``: see ``comfysnap_schema.wire``.

The image build copies this module beside ``nodepacks``, so it imports only the standard library.
"""


class CommandError(Exception):
    """A task of a command failed.

    Args:
        code: Stable, for programs. The subclasses list theirs.
        message: What is wrong, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)
