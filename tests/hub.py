"""A Hub on loopback, in a process of its own: huggingface_hub reads its settings when it is imported.

    serve(root)     root/owner/name/REVISION/... over HTTP, with a log of what was asked for
    as a script     looks up the checkpoints that stdin lists, as JSON, and prints what came of each, as JSON
"""

import hashlib
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

GATED, TOKEN = "owner/gated", "hf_secret"


def sha_of(repository: str, revision: str) -> str:
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


def serve(root: Path) -> tuple[str, list[list[str]]]:
    """The address, and a log that grows: method, path, token."""
    log: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path, token = unquote(urlsplit(self.path).path), self.headers.get("Authorization", "")
            log.append([self.command, path, token.removeprefix("Bearer ")])
            kind, parts = "resolve", path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                kind, parts = "api", parts[2:]
            repository = "/".join(parts[:2])
            if not (root / repository).is_dir():
                return self.answer(404, error="RepoNotFound")
            if repository == GATED and token != f"Bearer {TOKEN}":
                return self.answer(401, error="GatedRepo")
            revisions = {name: name for name in os.listdir(root / repository)}
            revisions |= {sha_of(repository, name): name for name in revisions}
            revision = revisions.get(parts[3] if len(parts) > 3 else "main")
            if revision is None:
                return self.answer(404, error="RevisionNotFound")
            folder, sha = root / repository / revision, sha_of(repository, revision)
            files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
            if kind == "api" and parts[2:3] == ["tree"]:
                return self.answer(200, json.dumps([{
                    "type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40,
                } for name, file in files.items()]).encode())
            if kind == "api":
                return self.answer(200, json.dumps({
                    "id": repository, "sha": sha, "siblings": [{"rfilename": name} for name in files],
                }).encode())
            name = "/".join(parts[4:])
            if name not in files:
                return self.answer(404, error="EntryNotFound")
            self.answer(200, files[name].read_bytes(), {"X-Repo-Commit": sha})

        def answer(self, code: int, body: bytes = b"{}", headers: dict | None = None, error: str = "") -> None:
            self.send_response(code)
            tag = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "Content-Length": str(len(body))}
            for key, value in {**tag, **(headers or {}), **({"X-Error-Code": error} if error else {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", log


def main() -> None:
    address, log = serve(Path(sys.argv[1]))
    os.environ["HF_ENDPOINT"] = address
    from diffedit_min.loading.sources import find

    results = []
    for step in json.load(sys.stdin):
        os.environ |= step.get("environment", {})
        for file in step.get("remove", []):
            for path in Path(os.environ["HF_HOME"]).glob(file):
                path.unlink()
        result: dict = {"error": None}
        try:
            found = find(step["name"], **step.get("options", {}))
            result |= {"prediction_type": found.prediction_type, "tokenizers": list(map(str, found.tokenizers)),
                       "weights": sorted({str(file) for network in found.networks.values() for file in network.files})}
        except ValueError as error:
            result["error"] = str(error)
        for name in step.get("environment", {}):
            del os.environ[name]
        results.append({**result, "requests": log.copy()})
        log.clear()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
