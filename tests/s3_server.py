"""A bucket on loopback that checks signatures and expiry, as localbucket by itself does not."""

# localbucket has no annotations
# pyright: reportUnknownMemberType=false

import hashlib
import hmac
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from localbucket import S3Error, S3Handler

BUCKET = "pictures"


class Bucket:
    """What the server accepts now, and what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys = {"first": "first secret"}
        """Access keys with their secrets."""
        self.down = False
        self.ahead = timedelta()
        """How far its clock is ahead."""
        self.requests: list[str] = []
        self.url = ""
        self.refused = threading.Event()
        """Set when a request was refused because the store is down."""
        (root / BUCKET).mkdir()

    @property
    def files(self) -> set[str]:
        """Names of the stored objects."""
        folder = self.root / BUCKET
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def signature(secret: str, scope: list[str], moment: str, request: str) -> str:
    """Signature Version 4, as AWS documents it."""
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    hashed = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", moment, "/".join(scope), hashed])
    return hmac.new(key, text.encode(), "sha256").hexdigest()


class Handler(S3Handler):
    bucket: Bucket

    def _dispatch(self, action: Any) -> None:
        self.bucket.requests.append(f"{self.command} {self.path.partition('?')[0]}")
        if self.bucket.down:
            self.bucket.refused.set()
            self.close_connection = True
            self.connection.close()
            return

        def checked(bucket: str, key: str) -> None:
            self._check_signature()
            action(bucket, key)

        super()._dispatch(checked)

    def _check_signature(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        signed_link = "X-Amz-Signature" in query
        if signed_link:
            given = query.pop("X-Amz-Signature")
            credential, headers = query["X-Amz-Credential"], query["X-Amz-SignedHeaders"]
            moment, payload = query["X-Amz-Date"], "UNSIGNED-PAYLOAD"
            start = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if datetime.now(UTC) + self.bucket.ahead > start + timedelta(
                seconds=int(query["X-Amz-Expires"])
            ):
                raise self._denied("Request has expired")
        else:
            _, _, rest = self.headers.get("Authorization", "").partition(" ")
            fields = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
            if not fields:
                raise self._denied("Access Denied")
            given, credential = fields["Signature"], fields["Credential"]
            headers, moment = fields["SignedHeaders"], self.headers["x-amz-date"]
            payload = self.headers["x-amz-content-sha256"]
        key, *scope = credential.split("/")
        secret = self.bucket.keys.get(key)
        request = "\n".join([
            self.command,
            parts.path,
            "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}"
                     for k, v in sorted(query.items())),
            *(f"{name}:{self.headers[name].strip()}" for name in headers.split(";")),
            "",
            headers,
            payload,
        ])  # fmt: skip
        if secret is None or given != signature(secret, scope, moment, request):
            raise self._denied("The request signature does not match")

    def _denied(self, message: str) -> S3Error:
        return S3Error(HTTPStatus.FORBIDDEN, "AccessDenied", message)


@contextmanager
def s3_server(root: Path) -> Generator[Bucket]:
    """Serve one bucket."""
    bucket = Bucket(root)
    handler = type("BucketHandler", (Handler,), {"bucket": bucket, "data_root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    bucket.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bucket
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
