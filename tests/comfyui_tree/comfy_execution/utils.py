import contextvars
from contextlib import contextmanager
from typing import NamedTuple

_current = contextvars.ContextVar("node", default=None)


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str


def get_executing_context():
    return _current.get()


@contextmanager
def running_node(prompt_id, node_id):
    token = _current.set(ExecutionContext(prompt_id, node_id))
    try:
        yield
    finally:
        _current.reset(token)
