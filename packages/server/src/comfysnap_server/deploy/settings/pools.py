"""``[deploy.pools.NAME]``: a GPU class of its own for some of the workflows."""

import keyword
import re
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, model_validator

from comfysnap_schema.workflow import setting_error
from comfysnap_server.deploy.settings.containers import WorkerSettings

DEFAULT_POOL: Final = "default"
"""Name of the pool with the keys of ``[deploy]`` itself, for the workflows that no pool names."""
OWN_KEYS: Final = ("preload", "warm_up", "min_containers", "buffer_containers")
"""Never taken from ``[deploy]``: they are about its workflows, or cost money once for each pool."""


class PoolSettings(WorkerSettings, frozen=True, extra="forbid"):
    """``[deploy.pools.NAME]``. Keys that are not set are taken from ``[deploy]``, except
    ``preload``, ``warm_up``, ``min_containers`` and ``buffer_containers``."""

    workflows: Annotated[list[str], Field(min_length=1)]
    """Names of the workflows that run in this pool, and only here."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        return self  # checked together with what [deploy] has

    @property
    def own_keys(self) -> dict[str, Any]:
        """The keys of ``[deploy]`` that this pool does not share, with its values."""
        names = {*(self.model_fields_set & WorkerSettings.model_fields.keys()), *OWN_KEYS}
        return {name: getattr(self, name) for name in names}


def _check_pools(pools: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
    owner: dict[str, str] = {}
    for name, pool in pools.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) or keyword.iskeyword(name):
            message = f"invalid pool name {name!r}: use a-z, 0-9 and _, and not a Python keyword"
            raise setting_error("invalid_value", message)
        if name == DEFAULT_POOL:
            message = f"{name!r} is the pool of [deploy] itself; choose another name"
            raise setting_error("invalid_value", message)
        for workflow in pool.workflows:
            if workflow in owner:
                message = f"workflow {workflow!r} is in {owner[workflow]!r} and {name!r}; keep one"
                raise setting_error("pool_conflict", message)
            owner[workflow] = name
    return pools


Pools = Annotated[dict[str, PoolSettings], AfterValidator(_check_pools)]
