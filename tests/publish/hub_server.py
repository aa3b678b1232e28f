"""A server with the endpoints of the Hub that an upload of a folder uses: create, preupload, LFS batch, PUT, commit."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class HubServer:
    """A hub on this machine.

    Args:
        token: the only one that is accepted.
        fail_at: an endpoint that answers with status 500: create, preupload, batch, put or commit; empty: none.
    """

    def __init__(self, token: str = "hf_test", fail_at: str = "") -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.validated: list[dict[str, Any]] = []
        self.token = token
        self.fail_at = fail_at
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes, host: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a POST request."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization")
            name = f"{owner}/{asked['name']}" if owner else asked["name"]
            if name in self.repos:  # `exist_ok` accepts this answer
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            self.repos[name] = {"visibility": asked.get("visibility"), "type": asked.get("type", "model")}
            self.files[name] = {}
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            self.validated.append(metadata)
            return 200, {"errors": [], "warnings": []}
        parts = path.split("/")
        repo = "/".join(parts[3:5])
        if path.startswith("/api/models/") and parts[5] == "preupload":
            files = [
                # as the Hub does: weights through LFS, texts within the commit
                {
                    "path": entry["path"],
                    "uploadMode": "lfs" if entry["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for entry in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": entry["oid"],
                    "size": entry["size"],
                    "actions": {"upload": {"href": f"{self.url}/put/{entry['oid']}", "header": {}}},
                }
                for entry in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/api/models/") and parts[5] == "commit":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.files[repo][value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.files[repo][value["path"]] = self.blobs[value["oid"]]
            return 200, {"commitUrl": f"{self.url}/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40, "success": True}
        return 404, {"error": f"no {path}"}

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # `self` is the request in the class below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kinds = {"create": "create", "preupload": "preupload", "batch": "batch", "commit": "commit"}
                kind = next((k for k in kinds if f"/{k}" in self.path), self.path)
                hub.requests.append(kind)
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self._send(401, {"error": "Invalid username or password."})
                if kind == hub.fail_at:
                    return self._send(500, {"error": "the server is broken"})
                return self._send(*hub.answer(self.path.partition("?")[0], body, self.headers["Host"]))

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.requests.append("put")
                if hub.fail_at == "put":
                    return self._send(500, {"error": "the server is broken"})
                oid = self.path.rpartition("/")[2]
                assert hashlib.sha256(body).hexdigest() == oid
                hub.blobs[oid] = body
                return self._send(200, {})

            def do_GET(self) -> None:
                hub.requests.append(f"GET {self.path}")
                self._send(404, {"error": "not found"})

            def _send(self, status: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                """Print nothing."""

        return Handler
