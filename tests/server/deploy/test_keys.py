"""The keys of a deployment, as gateways of several ages read them."""

import json

import pytest

from comfysnap_schema.wire import ProjectError
from comfysnap_server.deploy.keys import KeyEntry, SharedLinkKey, read_secret
from comfysnap_server.gateway import hash_key


class Entries:
    """A Dict."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def put(self, key: str, value: str) -> None:
        self.values[key] = value

    async def add(self, key: str, value: str) -> bool:
        return self.values.setdefault(key, value) == value


def test_an_entry_of_the_older_format_is_read() -> None:
    entry = {"secret": "s", "older": ["o"], "keys": {"anna": hash_key("1"), "ben": [hash_key("2")]}}
    read = KeyEntry.model_validate_json(json.dumps(entry))
    assert [(key.name, key.hash) for key in read.table.keys] == [
        ("anna", hash_key("1")), ("ben", hash_key("2")),
    ]  # fmt: skip
    assert KeyEntry.model_validate_json(read.model_dump_json()) == read


def test_a_secret_of_either_format_is_read() -> None:
    by_owner = read_secret(json.dumps({"anna": hash_key("1")}), "s")
    named = read_secret(by_owner.table.to_json(), "s")
    assert named.table == by_owner.table


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "missing_keys"), ("", "missing_keys"), ("{}", "invalid_keys"),
     ("nothing", "invalid_keys"), ('{"anna": "x"}', "invalid_keys")],
)  # fmt: skip
def test_a_secret_without_keys_is_an_error_of_the_setting(text: str | None, code: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read_secret(text, "s")
    assert (caught.value.code, caught.value.field) == (code, "deploy.keys_secret")


async def test_all_gateways_sign_with_the_key_that_the_first_one_made() -> None:
    entries = Entries()
    first, second = SharedLinkKey(lambda: entries), SharedLinkKey(lambda: entries)
    key = await first.read()
    assert len(key) >= 32
    assert await second.read() == key
    entries.values.clear()
    assert await first.read() == key
