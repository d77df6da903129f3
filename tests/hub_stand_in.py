"""A stand-in of the hub's HTTP interface, on this machine: as much of it as pushing and loading a model need.

Repositories lie in memory. Large files come as the hub takes them: announced by their sha256, uploaded by PUT, and
named in the commit; small ones in base64 within the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_stand_in"


class Hub(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.seen: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit_of(self, name: str) -> str:
        whole = hashlib.sha1()
        for path, content in sorted(self.repositories[name].items()):
            whole.update(path.encode() + content)
        return whole.hexdigest()

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def tell(self, told: object, status: int = 200, **headers: str) -> None:
        data = told if isinstance(told, bytes) else json.dumps(told).encode()
        kind = "application/octet-stream" if isinstance(told, bytes) else "application/json"
        self.send_response(status)
        for key, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        path, body, hub = self.path.partition("?")[0], self.body(), self.server
        hub.seen.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self.tell({"errors": [], "warnings": []})
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.tell({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            known = name in hub.repositories
            hub.repositories.setdefault(name, {})
            hub.private.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
            return self.tell({"url": f"{hub.address}/{name}", "id": name}, 409 if known else 200)
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            large = [(f["path"], f["path"].endswith(".safetensors")) for f in json.loads(body)["files"]]
            files = [{"path": p, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False} for p, lfs in large]
            return self.tell({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [{**o, "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}}}
                       for o in json.loads(body)["objects"]]  # fmt: skip
            return self.tell({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            files = hub.repositories[found[1]]
            for entry in map(json.loads, body.decode().splitlines()):
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            sha = hub.commit_of(found[1])
            return self.tell({"success": True, "commitUrl": f"{hub.address}/{found[1]}/commit/{sha}", "commitOid": sha})
        return self.tell({"error": f"no {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.path.rpartition("/")[2]
        good = hashlib.sha256(content).hexdigest() == oid
        if good:
            self.server.objects[oid] = content
        self.tell({}, 200 if good else 400)

    def do_GET(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        hub.seen.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            name = found[1]
            if name not in hub.repositories:
                return self.tell({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            files = hub.repositories[name]
            if found[2] == "tree":
                return self.tell([{"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                                  for p, c in files.items()])  # fmt: skip
            told = {"id": name, "modelId": name, "sha": hub.commit_of(name), "private": hub.private[name], "tags": []}
            return self.tell({**told, "siblings": [{"rfilename": p} for p in files]})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, file = found[1], found[3]
            content = hub.repositories.get(name, {}).get(file)
            if content is None:
                return self.tell({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self.tell(content, ETag=etag, X_Repo_Commit=hub.commit_of(name), Accept_Ranges="bytes")
        return self.tell({"error": f"no {path}"}, 404)

    do_HEAD = do_GET
