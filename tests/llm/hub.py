"""A server on this machine that speaks as much of the Hugging Face hub's protocol as downloading a repository needs
(https://huggingface.co/docs/hub/api; the headers are those of huggingface_hub.file_download.HfFileMetadata)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "1" * 40
GATED = "gated/model"


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[str]:
    """The address of a hub that has these: {"models/me/tiny": folder, "datasets/me/numbers": folder}."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(send=True)

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, send: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            if path.startswith("api/"):
                name = re.split("/(?:revision|tree)/", path.removeprefix("api/"))[0]
                if GATED in name:
                    self._reply(403, b"", send, {"X-Error-Code": "GatedRepo"})
                elif name not in repositories:
                    self._reply(404, b"", send, {"X-Error-Code": "RepoNotFound"})
                else:
                    files = sorted(repositories[name].iterdir())
                    told: object = [
                        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _etag(file)}
                        for file in files
                    ]
                    if "/revision/" in path:
                        siblings = [{"rfilename": file.name} for file in files]
                        told = {"id": name.partition("/")[2], "sha": COMMIT, "siblings": siblings, "tags": []}
                    self._reply(200, json.dumps(told).encode(), send, {"Content-Type": "application/json"})
                return
            repository, _, rest = path.partition("/resolve/")
            name = repository if repository.startswith("datasets/") else f"models/{repository}"
            file = repositories[name] / rest.partition("/")[2]
            self._reply(200, file.read_bytes(), send, {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT})

        def _reply(self, status: int, content: bytes, send: bool, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if send:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
