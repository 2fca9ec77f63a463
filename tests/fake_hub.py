"""A hub of one's own on a local port: what huggingface_hub asks of the real one, and connections that break."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" * 6 + "c0ff"


class FakeHub:
    """Serves `repositories`: {id: folder}; keeps what is uploaded in `uploaded`, and every request in `log`."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories, self.uploaded, self.log = repositories, {}, []
        self.gated: set[str] = set()
        self.refuse_writes = False
        self.breaks_after: dict[str, int] = {}  # file name -> bytes after which its first connection is cut
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content_Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(headers.get("size", len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def repository(self, name):
        """Its folder, or None after an error was answered."""
        if name in self.hub.gated:
            self.answer(403, {"error": "gated"}, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
        elif name not in self.hub.repositories:
            self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        else:
            return self.hub.repositories[name]
        return None

    def do_GET(self):
        path = self.path.split("?")[0]
        self.hub.log.append((self.command, path, self.headers.get("Range")))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if folder := self.repository(found[1]):
                if found[2] not in (None, "main", COMMIT):
                    self.answer(404, {"error": "x"}, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev")
                    return
                files = [{"rfilename": p.name} for p in folder.iterdir()]
                self.answer(200, {"id": found[1], "modelId": found[1], "sha": COMMIT, "siblings": files, "tags": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            if folder := self.repository(found[1]):
                files = sorted(folder.iterdir())
                self.answer(200, [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)} for p in files])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            if folder := self.repository(found[1]):
                self.file(folder / found[2])
        else:
            self.answer(404, {"error": f"{path} is not faked"})

    do_HEAD = do_GET

    def file(self, path):
        if not path.is_file():
            self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="no such file")
            return
        data, start = path.read_bytes(), 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(found[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.hub.breaks_after.pop(path.name, None)
        self.wfile.write(data[start : start + cut] if cut else data[start:])
        if cut:
            self.wfile.flush()
            self.connection.close()

    def do_POST(self):
        path = self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.log.append((self.command, path, self.headers.get("Authorization")))
        if path != "/api/validate-yaml" and self.hub.refuse_writes:
            self.answer(403, {"error": "you may not write here"})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/.+/preupload/.+", path):
            asked = json.loads(body)["files"]
            self.answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/.+", path):
            for line in body.decode().splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.hub.uploaded[f"{found[1]}/{part['value']['path']}"] = base64.b64decode(part["value"]["content"])
            made = {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT}
            self.answer(200, {"success": True, "hookOutput": "", "pullRequestUrl": None, **made})
        else:
            self.answer(404, {"error": f"{path} is not faked"})


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
