import os

import folder_paths


def load_extra_path_config(path):
    """Reads ``section:`` lines with indented ``key: value`` lines, as far as tests need YAML."""
    base = os.path.dirname(os.path.abspath(path))
    entries = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.strip().partition(":")
            if line.startswith(" ") and value.strip():
                entries[key] = value.strip()
    base = os.path.join(base, entries.pop("base_path", ""))
    for kind, folder in entries.items():
        folder_paths.add_model_folder_path(kind, os.path.normpath(os.path.join(base, folder)))
