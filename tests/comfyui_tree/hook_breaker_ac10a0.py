"""Restores functions that node packs must not replace."""

import comfy.model_management

SAVED = []


def save_functions():
    SAVED.append(comfy.model_management.unload_all_models)


def restore_functions():
    for function in SAVED:
        comfy.model_management.unload_all_models = function
