"""An S3 server on this machine (moto's) that counts what it is asked and fails on request, in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote

MISSING = [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]
BUCKET = "bucket"
CONTROL = "/wsss-test"  # of requests to the test server itself
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"
Answer = Callable[..., Iterable[bytes]]


class S3:
    """The server's process, and what a test asks of it without any of the program's own code."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}"
        try:
            self.empty()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a user would set to work with it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def empty(self) -> None:
        """Forget every object, fault and count; the bucket is there."""
        self._ask("POST", CONTROL + "/empty")
        self._ask("PUT", f"/{BUCKET}")

    def put(self, key: str, payload: bytes) -> None:
        self._ask("PUT", f"/{BUCKET}/{quote(key)}", payload)

    def get(self, key: str) -> bytes:
        return self._ask("GET", f"/{BUCKET}/{quote(key)}")

    def remove(self, key: str) -> None:
        self._ask("DELETE", f"/{BUCKET}/{quote(key)}")

    def keys(self, below: str = "") -> list[str]:
        """At most a thousand."""
        listing = ET.fromstring(self._ask("GET", f"/{BUCKET}?list-type=2&prefix={quote(below)}"))
        return [str(key.text) for key in listing.iterfind(f"{_XML}Contents/{_XML}Key")]

    def upload(self, folder: Path, below: str) -> None:
        """Every file of a folder."""
        for path in [path for path in sorted(folder.rglob("*")) if path.is_file()]:
            self.put(f"{below}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def download(self, below: str, folder: Path) -> Path:
        """Every object, as a file."""
        for key in self.keys(below + "/"):
            path = folder / key.removeprefix(below + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(key))
        return folder

    def fail(self, pattern: str, how: str, times: int = 1) -> None:
        """Fail the next requests whose "METHOD /bucket/key" the pattern finds.

        `how`: 503, 403, 501, "hang" (until the end), "cut" (half of the body, then the connection ends), "short"
        (half of it, said to be all).
        """
        self._ask("POST", CONTROL + "/fail", json.dumps([pattern, how, times]).encode())

    def mend(self) -> None:
        """Let no further request fail."""
        self._ask("POST", CONTROL + "/mend")

    def requests(self) -> list[str]:
        """What was asked since the last call, as "METHOD /bucket/key"; of a listing "LIST /bucket/prefix"."""
        found: list[str] = json.loads(self._ask("POST", CONTROL + "/requests"))
        return found

    def _ask(self, method: str, path: str, payload: bytes = b"") -> bytes:
        data = payload if method in ("PUT", "POST") else None
        header = {
            "x-wsss-test": "1",
            "Content-Type": "application/octet-stream",
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=none",
        }
        request = urllib.request.Request(self.url + path, data, header, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            result: bytes = answer.read()
        return result


class _Faulty:
    """The WSGI application between the test's faults and moto."""

    def __init__(self, inner: Answer) -> None:
        self._inner = inner
        self._faults: list[list[Any]] = []
        self._asked: list[str] = []
        self._over = threading.Event()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith(CONTROL):
            return self._control(path, environ, start)
        if environ.get("HTTP_X_WSSS_TEST"):
            return self._inner(environ, start)
        asked = f"{method} {path}"
        if "list-type" in environ["QUERY_STRING"]:
            asked = f"LIST {path}/{''.join(parse_qs(environ['QUERY_STRING']).get('prefix', []))}"
        self._asked.append(asked)
        for fault in self._faults:
            if fault[2] and re.search(fault[0], asked):
                fault[2] -= 1
                return self._fail(fault[1], environ, start)
        return self._inner(environ, start)

    def _control(self, path: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        answer = b""
        if path.endswith("/fail"):
            self._faults.append(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        elif path.endswith("/requests"):
            answer, self._asked = json.dumps(self._asked).encode(), []
        else:
            self._over.set()
            self._over, self._faults = threading.Event(), []
            if path.endswith("/empty"):
                self._asked = []
                environ["PATH_INFO"], environ["REQUEST_METHOD"] = "/moto-api/reset", "POST"
                list(self._inner(environ, lambda *_: None))
        start("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    def _fail(self, how: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if how == "hang":
            self._over.wait(60)
        elif how in ("cut", "short"):
            return self._torn(how, environ, start)
        code = {"503": "SlowDown", "403": "AccessDenied", "501": "NotImplemented"}.get(how, "InternalError")
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        status = f"{how if how.isdigit() else 500} {code}"
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def _torn(self, how: str, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        said: list[Any] = []
        body = b"".join(self._inner(environ, lambda *arguments: said.extend(arguments)))
        half = body[: len(body) // 2]
        length = str(len(half) if how == "short" else len(body))
        drop = ("content-length", "etag", "x-amz-checksum-crc32")
        kept = [(name, value) for name, value in said[1] if name.lower() not in drop]
        start(said[0], [*kept, ("Content-Length", length)])
        return [half] if how == "short" else _cut(half)


def _cut(half: bytes) -> Iterator[bytes]:
    yield half
    raise ConnectionAbortedError("as the test asked")


def serve() -> None:
    """Serve on a free port, which is the first line on stdout."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object, **__: object) -> None:
            """Say nothing."""

    app = _Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    serve()
