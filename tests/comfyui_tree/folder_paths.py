"""Folders of models and files."""

import os

base_path = os.path.dirname(os.path.realpath(__file__))
folder_names_and_paths = {
    "custom_nodes": ([os.path.join(base_path, "custom_nodes")], set()),
    "checkpoints": ([os.path.join(base_path, "models", "checkpoints")], {".safetensors"}),
}
filename_list_cache = {}
_directories = {kind: os.path.join(base_path, kind) for kind in ("output", "temp", "input")}


def add_model_folder_path(kind, folder, is_default=False):
    folder_names_and_paths.setdefault(kind, ([], set()))[0].append(folder)


def get_folder_paths(kind):
    return list(folder_names_and_paths[kind][0])


def get_full_path(kind, name):
    for folder in get_folder_paths(kind):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    return None


def get_filename_list(kind):
    """Cached until the folders change."""
    folders = [folder for folder in get_folder_paths(kind) if os.path.isdir(folder)]
    state = [(folder, os.path.getmtime(folder)) for folder in folders]
    known = filename_list_cache.get(kind)
    if known is None or known[0] != state:
        names = {name for folder in folders for name in os.listdir(folder)}
        known = state, sorted(name for name in names if name.endswith(".safetensors"))
        filename_list_cache[kind] = known
    return known[1]


def get_directory_by_type(kind):
    return _directories.get(kind)


def get_output_directory():
    return _directories["output"]


def get_temp_directory():
    return _directories["temp"]


def get_input_directory():
    return _directories["input"]


def set_output_directory(folder):
    _directories["output"] = folder


def set_temp_directory(folder):
    _directories["temp"] = folder


def set_input_directory(folder):
    _directories["input"] = folder


def annotated_filepath(name):
    for kind in ("output", "input", "temp"):
        mark = f" [{kind}]"
        if name.endswith(mark):
            return name[: -len(mark)], _directories[kind]
    return name, None


def get_annotated_filepath(name):
    bare, base = annotated_filepath(name)
    return os.path.join(base or get_input_directory(), bare)


def exists_annotated_filepath(name):
    return os.path.exists(get_annotated_filepath(name))


def get_save_image_path(prefix, folder):
    """Folder, file prefix, first free number, and subfolder."""
    subfolder, name = os.path.split(os.path.normpath(prefix))
    target = os.path.join(folder, subfolder)
    if os.path.commonpath((folder, os.path.abspath(target))) != folder:
        raise ValueError("outside the output folder")
    os.makedirs(target, exist_ok=True)
    taken = [
        int(file[len(name) + 1 :].split("_")[0])
        for file in os.listdir(target)
        if file.startswith(name + "_") and file[len(name) + 1 :].split("_")[0].isdigit()
    ]
    return target, name, max(taken, default=0) + 1, subfolder
