"""The index of jobs: small entries in a Dict of their own, because listing reads all of them."""

from collections.abc import AsyncIterator, Mapping

from comfysnap_server.backends.modal.platform import Records
from comfysnap_server.backends.modal.records import Listed, index_key


class JobIndex:
    """Finds jobs by owner; job ids sort by time."""

    def __init__(self, entries: Records) -> None:
        self._entries = entries

    async def find(
        self, owner: str, workflow: str | None, labels: Mapping[str, str], *, before: str | None
    ) -> list[str]:
        """Ids of matching jobs, newest first, from below ``before`` on."""
        prefix = index_key(owner, "")
        found: list[str] = []
        async for key, value in self._entries.items():
            job_id = key.removeprefix(prefix)
            if job_id == key or (before is not None and job_id >= before):
                continue
            listed = Listed.model_validate_json(value)
            if workflow not in (None, listed.workflow):
                continue
            if labels.items() <= listed.labels.items():
                found.append(job_id)
        return sorted(found, reverse=True)

    async def everything(self) -> AsyncIterator[tuple[str, str]]:
        """Owner and id of each job, in no order."""
        async for key, _ in self._entries.items():
            owner, _, job_id = key.rpartition(":")
            yield owner, job_id
