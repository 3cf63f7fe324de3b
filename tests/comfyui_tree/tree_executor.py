"""Validates and runs prompts, with the habits of the original that callers have to know.

What all releases share; each release's ``execution.py`` adds its caches and arguments.
"""

import asyncio
import copy
import inspect
import logging
import sys
import time
import traceback

import comfy.model_management
import nodes
import torch
from comfy_execution import progress
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import running_node


class PromptQueue:
    def __init__(self, server):
        self.server = server


def _is_link(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _check_value(name, value, spec):
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if isinstance(kind, (list, tuple)):
        if value not in kind:
            return "value_not_in_list", "Value not in list", f"{name}: {value!r}"
        return None
    if kind in ("INT", "FLOAT"):
        try:
            value = {"INT": int, "FLOAT": float}[kind](value)
        except (TypeError, ValueError) as error:
            return "invalid_input_type", f"Failed to convert to {kind}", f"{name}: {error}"
        if value < options.get("min", value):
            return "value_smaller_than_min", f"Value {value} is too small", name
        if value > options.get("max", value):
            return "value_bigger_than_max", f"Value {value} is too big", name
    return None


def _entry(kind, message, details, name):
    extra = {"input_name": name} if name else {}
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _validate_node(prompt, node_id, seen):
    """Collects errors of a node and its ancestors by id; returns whether all are valid."""
    if node_id in seen:
        return not seen[node_id]
    errors, valid = [], True
    seen[node_id] = errors
    entry = prompt[node_id]
    kind = nodes.NODE_CLASS_MAPPINGS[entry["class_type"]]
    types = kind.INPUT_TYPES()
    own = getattr(kind, "VALIDATE_INPUTS", None)
    checked = set(inspect.signature(own).parameters) if own else set()
    for group in ("required", "optional"):
        for name, spec in types.get(group, {}).items():
            if name not in entry["inputs"]:
                if group == "required":
                    errors.append(
                        _entry("required_input_missing", "Required input is missing", name, name)
                    )
                continue
            value = entry["inputs"][name]
            if _is_link(value):
                valid = _validate_node(prompt, value[0], seen) and valid
            elif name not in checked:
                if spec[0] == "INT" and isinstance(value, str) and value.isdigit():
                    value = entry["inputs"][name] = int(value)
                found = _check_value(name, value, spec)
                if found:
                    errors.append(_entry(*found, name))
    if own and not errors:
        answer = own(**{name: entry["inputs"][name] for name in checked})
        if answer is not True:
            name = next(iter(checked))
            errors.append(_entry("custom_validation_failed", "Custom validation failed",
                                 f"{name} - {answer}", name))  # fmt: skip
    return valid and not errors


def validate(prompt, unknown_class):
    """Returns ``(valid, error, outputs, node_errors)``; one valid output is enough.

    ``unknown_class`` makes this release's error of a node id and its entry.
    """
    for node_id, entry in prompt.items():
        if entry.get("class_type") not in nodes.NODE_CLASS_MAPPINGS:
            return False, unknown_class(node_id, entry), [], {}
    outputs = [
        node_id
        for node_id, entry in prompt.items()
        if getattr(nodes.NODE_CLASS_MAPPINGS[entry["class_type"]], "OUTPUT_NODE", False)
    ]
    if not outputs:
        return False, _entry("prompt_no_outputs", "Prompt has no outputs", "", None), [], {}
    seen = {}
    good = [node_id for node_id in outputs if _validate_node(prompt, node_id, seen)]
    node_errors = {
        node_id: {
            "errors": errors,
            "dependent_outputs": [],
            "class_type": prompt[node_id]["class_type"],
        }
        for node_id, errors in seen.items()
        if errors
    }
    if not good:
        message = "Prompt outputs failed validation"
        error = _entry("prompt_outputs_failed_validation", message, "", None)
        return False, error, [], node_errors
    return True, None, good, node_errors


class Expanded:
    """Nodes that other nodes created by ``expand``, with the ids of those."""

    def __init__(self):
        self.parents = {}

    def get_real_node_id(self, node_id):
        while node_id in self.parents:
            node_id = self.parents[node_id]
        return node_id


def get_output_from_returns(return_values, obj):
    """Results and ``ui``, whose items it takes one by one: of a text, each letter."""
    reported = [each["ui"] for each in return_values if isinstance(each, dict) and "ui" in each]
    keys = reported[0] if reported else ()
    ui = {key: [item for each in reported for item in each[key]] for key in keys}
    return return_values, ui, False


class Executor:
    """Subclasses of each release define its caches and their entries."""

    def reset(self):
        self.caches = self.new_caches()
        self.status_messages = []
        self.success = True

    def new_caches(self):
        raise NotImplementedError

    def keep(self, node_id, outputs, ui):
        raise NotImplementedError

    def outputs_of(self, node_id):
        """The cached outputs of a node, or None."""
        raise NotImplementedError

    def ui_of(self, node_id):
        raise NotImplementedError

    def node_ended(self):
        """Called after each node."""

    def add_message(self, event, data):
        self.status_messages.append((event, {**data, "timestamp": int(time.time() * 1000)}))
        if self.server.client_id is not None:
            self.server.send_sync(event, data, self.server.client_id)

    def execute(self, prompt, prompt_id, extra_data=None, execute_outputs=()):
        asyncio.run(self.execute_async(prompt, prompt_id, extra_data, execute_outputs))

    async def execute_async(self, prompt, prompt_id, extra_data=None, execute_outputs=()):
        nodes.interrupt_processing(False)
        self.extra_data = extra_data or {}
        self.server.client_id = self.extra_data.get("client_id")
        self.status_messages = []
        self.add_message("execution_start", {"prompt_id": prompt_id})
        with torch.inference_mode():
            self.expanded = Expanded()
            progress.reset_progress_state(prompt_id, self.expanded)
            progress.add_progress_handler(progress.WebUIProgressHandler(self.server))
            for cache in self.caches.all:
                cache.set_prompt(prompt)
            cached = [node for node in prompt if self.outputs_of(node) is not None]
            self.add_message("execution_cached", {"nodes": cached, "prompt_id": prompt_id})
            for node_id in _order(prompt, execute_outputs):
                if not await self._run_node(prompt, prompt_id, node_id):
                    break
                self.node_ended()
            else:
                self.add_message("execution_success", {"prompt_id": prompt_id})
        known = [*prompt, *self.expanded.parents]
        self.history_result = {"outputs": {n: self.ui_of(n) for n in known if self.ui_of(n)}}
        self.server.last_node_id = None

    async def _run_node(self, prompt, prompt_id, node_id):
        registry = progress.get_progress_state()
        message = {"node": node_id, "display_node": node_id, "prompt_id": prompt_id}
        if self.outputs_of(node_id) is not None:
            self.server.send_sync("executed", message, self.server.client_id)
            registry.finish_progress(node_id)
            return True
        kind = nodes.NODE_CLASS_MAPPINGS[prompt[node_id]["class_type"]]
        failed = {"prompt_id": prompt_id, "node_id": node_id,
                  "node_type": prompt[node_id]["class_type"]}  # fmt: skip
        registry.start_progress(node_id)
        self.server.last_node_id, self.inputs = node_id, {}
        self.server.send_sync("executing", message, self.server.client_id)
        try:
            nodes.before_node_execution()
            await self._call(prompt, prompt_id, node_id, kind)
        except comfy.model_management.InterruptProcessingException:
            self.add_message("execution_interrupted", failed)
            return False
        except Exception as error:
            logging.error(f"!!! Exception during processing !!! {error}")
            logging.error(traceback.format_exc())
            if isinstance(error, comfy.model_management.OOM_EXCEPTION):
                comfy.model_management.unload_all_models()
            module = type(error).__module__
            name = type(error).__qualname__
            failed["exception_type"] = name if module == "builtins" else f"{module}.{name}"
            failed["exception_message"] = f"{error}\n"
            failed["traceback"] = traceback.format_tb(error.__traceback__)
            failed["current_inputs"] = {name: [str(value)] for name, value in self.inputs.items()}
            self.add_message("execution_error", failed)
            return False
        registry.finish_progress(node_id)
        return True

    async def _call(self, prompt, prompt_id, node_id, kind):
        inputs = self.inputs = {}
        for name, value in prompt[node_id]["inputs"].items():
            if name in _names(kind):
                inputs[name] = self._value(value)
        for name, what in kind.INPUT_TYPES().get("hidden", {}).items():
            hidden = {"PROMPT": copy.deepcopy(prompt), "UNIQUE_ID": node_id,
                      "EXTRA_PNGINFO": self.extra_data.get("extra_pnginfo"),
                      "API_KEY_COMFY_ORG": self.extra_data.get("api_key_comfy_org")}  # fmt: skip
            inputs[name] = hidden.get(what)
        for value in inputs.values():
            if isinstance(value, ExecutionBlocker):
                error = {"prompt_id": prompt_id, "node_id": node_id,
                         "exception_type": "ExecutionBlocked", "traceback": [],
                         "exception_message": f"Execution Blocked: {value.message}"}  # fmt: skip
                if value.message is not None:
                    self.server.send_sync("execution_error", error, self.server.client_id)
                self.keep(node_id, [ExecutionBlocker(None)], None)
                return
        node = self.caches.objects.get(node_id)
        if node is None:
            node = kind()
            self.caches.objects.set(node_id, node)
        function = getattr(node, kind.FUNCTION)
        with running_node(prompt_id, node_id):
            result = function(**inputs)
            if inspect.isawaitable(result):
                result = await result
        ui = sys.modules["execution"].get_output_from_returns([result], node)[1]
        if ui:
            done = {"node": node_id, "output": ui, "prompt_id": prompt_id}
            self.server.send_sync("executed", done, self.server.client_id)
        if isinstance(result, dict) and "expand" in result:
            result = await self._expand(prompt, prompt_id, node_id, result)
        elif ui:
            result = result.get("result", ())
        self.keep(node_id, list(result), ui)

    async def _expand(self, prompt, prompt_id, node_id, result):
        """Runs the nodes of ``expand``, whose results become those of the node."""
        whole = {**prompt, **result["expand"]}
        for made in result["expand"]:
            self.expanded.parents[made] = node_id
        for cache in self.caches.all:
            cache.cache_key_set.add(whole, result["expand"])
        for made in _order(whole, result["expand"]):
            if not await self._run_node(whole, prompt_id, made):
                raise RuntimeError(f"{made} failed")
        return [self._value(value) for value in result["result"]]

    def _value(self, value):
        return self.outputs_of(value[0])[value[1]] if _is_link(value) else value


def _names(kind):
    types = kind.INPUT_TYPES()
    return {**types.get("required", {}), **types.get("optional", {})}


def _order(prompt, outputs):
    """The nodes that the outputs depend on, sources first."""
    ordered = {}

    def visit(node_id):
        if node_id not in ordered:
            for value in prompt[node_id]["inputs"].values():
                if _is_link(value):
                    visit(value[0])
            ordered[node_id] = None

    for node_id in outputs:
        visit(node_id)
    return list(ordered)
