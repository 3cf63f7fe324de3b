"""The webhooks of a deployment, for the commands on the user's machine."""

# modal's stubs leave the types of Dict partly unknown
# pyright: reportUnknownMemberType=false

import time
from typing import Any, Final, cast

import modal

from comfysnap_server.jobs import Delivery

FUNCTION: Final = "deliver"
"""Sends the webhook of a job; see ``functions/webhooks.py``."""


def dict_name(app: str) -> str:
    """Name of the Dict with the webhooks, by job id."""
    return f"{app}-webhooks"


class DeployedWebhooks:
    """What the gateways, workers and the sweep of an app keep."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._entries = modal.Dict.from_name(dict_name(app), create_if_missing=True)

    def list(self, *, failed: bool) -> list[tuple[str, Delivery]]:
        """Job ids and webhooks of jobs that ended, the newest first.

        Args:
            failed: Only those that are not tried again.
        """
        states = ("failed",) if failed else ("pending", "delivered", "failed")
        items = cast("Any", self._entries.items())
        found = [(job_id, Delivery.model_validate_json(text)) for job_id, text in items]
        return sorted((entry for entry in found if entry[1].state in states), reverse=True,
                      key=lambda entry: entry[0])  # fmt: skip

    def resend(self, job_id: str) -> Delivery | None:
        """Have the webhook of a job that ended sent anew; None: there is none."""
        text: Any = self._entries.get(job_id)
        delivery = None if text is None else Delivery.model_validate_json(text)
        if delivery is None or delivery.state in ("waiting", "unwanted"):
            return None
        again = delivery.again(time.time())
        self._entries.put(job_id, again.model_dump_json())
        modal.Function.from_name(self._app, FUNCTION).spawn(job_id)
        return again
