"""A Hub on loopback for tests: one repository, and the ways in which a Hub can fail.

hub = FakeHub(folder)                  serves the files of a folder as owner/model
hub.fault = "500"                      from now on every request is answered so
hub.gate.clear()                       downloads stand still after their first bytes
"""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
PIECE = 64 * 1024


class FakeHub:
    """Serves until `close`. `fault` is "", "500", "429", "no revision", "silent" or "cut"."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fault, self.requests = folder, "", 0
        self.gate = threading.Event()
        self.gate.set()
        self._over = threading.Event()
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def be_silent(self) -> None:
        self._over.wait(20)

    def info(self) -> dict[str, object]:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return {"id": "owner/model", "sha": COMMIT, "siblings": [self._entry(f) for f in files]}

    def _entry(self, path: Path) -> dict[str, object]:
        size = path.stat().st_size
        entry: dict[str, object] = {
            "rfilename": path.relative_to(self.folder).as_posix(),
            "size": size,
        }
        if path.suffix == ".safetensors":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
        return entry


class _Handler(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.served, self.path.partition("?")[0]
        hub.requests += 1
        if hub.fault in ("500", "429"):
            return self._answer(int(hub.fault), b"")
        if hub.fault == "silent":
            return hub.be_silent()
        if hub.fault == "no revision" and "/revision/" in path:
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/models/"):
            return self._answer(200, json.dumps(hub.info()).encode())
        file = hub.folder / path.partition(f"/resolve/{COMMIT}/")[2]
        if not file.is_file():
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._send(file.read_bytes())

    def _send(self, content: bytes) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.command == "HEAD" or len(content) < PIECE:
            return self._answer(200, content, headers)
        self._begin(200, len(content), headers)
        for at in range(0, len(content), PIECE):
            self.wfile.write(content[at : at + PIECE])
            self.wfile.flush()
            if self.served.fault == "cut":
                self.served.fault = "gone"
            if self.served.fault == "gone":
                self.close_connection = True
                return
            while not self.served.gate.wait(0.05):
                time.sleep(0)

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        if self.served.fault == "gone":
            self.close_connection = True
            return
        self._begin(status, len(content), headers or {})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
