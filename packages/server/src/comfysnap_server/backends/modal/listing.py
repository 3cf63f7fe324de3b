"""The index of jobs: small entries in a Dict of their own, because listing reads all of them."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from comfysnap_server.backends.modal.platform import Records
from comfysnap_server.backends.modal.records import Listed, index_key, owner_and_job


class JobIndex:
    """Finds jobs by owner."""

    def __init__(self, entries: Records) -> None:
        self._entries = entries

    async def find(
        self, owner: str, workflow: str | None, labels: Mapping[str, str], *, before: str | None
    ) -> list[tuple[str, str]]:
        """Cursors and ids of matching jobs, newest first, from behind the cursor ``before`` on."""
        prefix = index_key(owner, "")
        found: list[tuple[str, str]] = []
        async for key, value in self._entries.items():
            job_id = key.removeprefix(prefix)
            if job_id == key:
                continue
            listed = Listed.model_validate_json(value)
            cursor = f"{listed.created_at.timestamp():017.6f}-{job_id}"
            if before is not None and cursor >= before:
                continue
            if workflow in (None, listed.workflow) and labels.items() <= listed.labels.items():
                found.append((cursor, job_id))
        return sorted(found, reverse=True)

    async def since(self, start: datetime) -> AsyncIterator[tuple[str, str]]:
        """Owner and id of each job accepted since ``start``, in no order."""
        async for key, value in self._entries.items():
            if Listed.model_validate_json(value).created_at >= start:
                yield owner_and_job(key)
