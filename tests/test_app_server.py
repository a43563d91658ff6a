"""Run: python -m pytest tests/test_app_server.py -m slow

The page asked by raw HTTP, as someone would who means it harm; behind a proxy; and what is left when it is killed.
"""

import html
import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.loading.held import Models
from diffedit_min.studio.app.files import PREFIX
from diffedit_min.studio.app.guard import OF_VISITOR
from diffedit_min.tiny import scenes

pytest.importorskip("gradio")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


def request(address, path, method="GET", body=None, **headers):
    """(status, headers, text) of one request, as it is written here: no client puts its path or headers right."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def upload(address, content, name="a.png", at="", **headers):
    body = (b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode() + b'"\r\n'
            b"Content-Type: image/png\r\n\r\n" + content + b"\r\n--x--\r\n")
    return request(address, f"{at}/gradio_api/upload", "POST", body, Content_Type="multipart/form-data; boundary=x",
                   **headers)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Visitor:
    """One who asks the page without a browser."""

    def __init__(self, address, at=""):
        self.address, self.at, self.session = address, at, secrets.token_hex(8)
        _, _, text = request(address, f"{at}/config")
        self.config = json.loads(text)
        self.ids = {part["props"].get("elem_id"): part["id"] for part in self.config["components"]}
        self.values = {part["id"]: part["props"].get("value") for part in self.config["components"]}

    def event(self, control, kind):
        """The event, and the one that follows it if there is one."""
        events = self.config["dependencies"]
        first, = (event for event in events if [self.ids[control], kind] in event["targets"])
        return next((event for event in events if event.get("trigger_after") == first["id"] and event["backend_fn"]),
                    first)

    def ask(self, event, **controls):
        """(whether it went well, what is said) of an event, where some controls hold these values."""
        values = self.values | {self.ids[name]: value for name, value in controls.items()}
        data = [values[part] for part in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        status, _, text = request(self.address, f"{self.at}/gradio_api/queue/join", "POST", json.dumps(body),
                                  Content_Type="application/json")
        assert status == 200, text
        _, _, told = request(self.address, f"{self.at}/gradio_api/queue/data?session_hash={self.session}")
        end, = (json.loads(line[6:]) for line in told.splitlines() if '"process_completed"' in line)
        problems = re.findall(r'class=\\"problem\\">(.*?)</div>', told)        # said in the page
        said = html.unescape(json.loads(f'"{problems[-1]}"')) if problems else end["output"].get("error")
        return end["success"] and not problems, said

    def upload(self, content, name="a.png"):
        """As an event holds it."""
        status, _, text = upload(self.address, content, name, self.at)
        assert status == 200, text
        return {"path": json.loads(text)[0], "meta": {"_type": "gradio.FileData"}}


@contextmanager
def served(folder, root_path="", megabytes=1):
    from diffedit_min.studio.app.page import launch, make_page

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        model = dm.load("random", device="cpu")
        page = make_page(Models(["random"], load=lambda *_, **__: model), megabytes=megabytes, megapixels=1)
        try:
            yield launch(page, "127.0.0.1", None, megabytes, {"edit.example.org"}, root_path=root_path)
        finally:
            page.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("gradio")) as address:
        yield address


@pytest.fixture
def visitor(address):
    return Visitor(address)


SCENE = scenes.sample(scenes.TEST[1]).render(48)


def test_other_hosts_and_other_sites_get_nothing(address):
    own = urlsplit(address).netloc
    assert request(address, "/")[0] == 200 and "DiffEdit" in request(address, "/", Host="edit.example.org")[2]
    for path in ("/", "/config", "/assets/x.js"):
        status, _, text = request(address, path, Host="evil.example")
        assert status == 403 and "--allow-host" in text
    content = png(SCENE)
    assert upload(address, content, Origin=f"http://{own}")[0] == 200
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        assert upload(address, content, Origin=origin)[0] == 403


@pytest.mark.parametrize("path", [
    "/gradio_api/file=/etc/hostname", "/gradio_api/file=../../../../../etc/hostname", "/gradio_api/file=//etc/hostname",
    "/gradio_api/file=%2e%2e/%2e%2e/etc/hostname", "/gradio_api/file=/proc/self/environ", "/file=/etc/hostname",
    "/static/../../../../../../../../../etc/hostname", "/assets/%2e%2e/%2e%2e/%2e%2e/__init__.py",
    "/svelte/..%2f..%2f..%2f__init__.py", f"/gradio_api/file={ROOT}/pyproject.toml", "/gradio_api/file=\\etc\\hostname",
    "/gradio_api/file=http://127.0.0.1:9/", "/gradio_api/proxy=http://127.0.0.1:9/", "/gradio_api/file=/dev/zero",
])
def test_no_other_file_is_read_and_no_address_fetched(address, path):
    assert request(address, path)[0] in (403, 404)


def test_no_control_takes_a_file_that_was_not_uploaded(visitor, tmp_path):
    edit = visitor.event("edit", "click")
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    for path in ("/etc/hostname", str(tmp_path / "link.png"), f"{visitor.upload(png(SCENE))['path']}/../../../etc"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for name in ("query", "option-steps", "canvas", "method"):
            success, said = visitor.ask(edit, **{name: {"layers": [file]} if name == "canvas" else file})
            assert not success and said


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.png", "a.xhtml", "a.txt", "../../a.html", "a.js"])
def test_what_was_uploaded_runs_in_no_browser(visitor, name):
    """Whatever it says it is: a page or a drawing can hold a script, which would be this server's."""
    file = visitor.upload(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", name)
    for more in ({}, {"Range": "bytes=0-3", "X-Mine": "evil"}):
        status, headers, text = request(visitor.address, f"/gradio_api/file={file['path']}", **more)
        assert status == 200 and text.startswith("<svg") and headers["X-Mine"] is None
        assert headers["X-Content-Type-Options"] == "nosniff" and len(headers.get_all("Content-Type")) == 1
        kind = headers["Content-Type"].split(";")[0]
        assert kind in ("image/png", "text/plain") or headers["Content-Disposition"].startswith("attachment")
    assert ".." not in file["path"]


def test_the_canvas_takes_cells_only_and_not_many(visitor):
    """No picture comes back from it, so none is decoded."""
    assert visitor.ask(visitor.event("picture", "upload"), picture=visitor.upload(png(SCENE))) == (True, None)
    edit, bomb = visitor.event("edit", "click"), visitor.upload(png(Image.new("1", (8000, 8000))))
    for sent in ({"layers": [bomb]}, bomb, "0" * 200_000, "9"):
        success, said = visitor.ask(edit, query="pears", canvas=sent)
        assert not success and "the mask must be a text of cells" in said
    assert "which has " in visitor.ask(edit, query="pears", canvas="333/333")[1]


def test_calls_out_of_order_and_of_wrong_kinds_are_told_in_a_line(visitor, capfd):
    report = visitor.event("open-report", "click")
    assert visitor.ask(report) == (False, "there is no edit yet to report on")
    event = visitor.event("edit", "click")
    for wrong in ({}, [], [[]], "x" * 1000, 10**40, {"a": None}, True):
        for name in ("option-steps", "method", "model", "canvas", "seed"):
            success, said = visitor.ask(event, **{name: wrong})
            assert not success and said and "\n" not in said
    assert visitor.ask(event, model="/etc/hostname")[1].startswith("Value: /etc/hostname is not in the list of choices")
    join = {"data": [], "fn_index": 10**9, "session_hash": "abc"}
    for body in (json.dumps(join), json.dumps(join | {"fn_index": -1}), "[" * 100_000, "{", "null", '{"data": 1}'):
        for path in ("queue/join", "run/predict"):
            status, _, text = request(visitor.address, f"/gradio_api/{path}", "POST", body,
                                      Content_Type="application/json")
            assert 400 <= status < 500 and "Traceback" not in text
    direct = {"data": [visitor.values[part] for part in event["inputs"]], "fn_index": event["id"]}
    assert request(visitor.address, "/gradio_api/run/predict", "POST", json.dumps(direct),
                   Content_Type="application/json")[0] == 404           # not past the line
    said = capfd.readouterr().err
    assert "Traceback" not in said, said
    assert request(visitor.address, "/")[0] == 200


def test_uploads_are_bounded(tmp_path):
    with served(tmp_path, megabytes=0.1) as address:
        status, _, said = upload(address, bytes(300_000))
        assert status == 413 and "maximum allowed size" in said
        assert upload(address, bytes(110_000))[0] == 413        # by Gradio: the guard can't see where a file ends in it
        statuses = [upload(address, i.to_bytes(2, "big") * 52_400)[0] for i in range(OF_VISITOR + 2)]
        assert statuses == [200] * OF_VISITOR + [429] * 2
        lies = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert lies < (OF_VISITOR + 1) * 104_858
        assert request(address, "/")[0] == 200


# ---- behind a proxy


class Proxy(BaseHTTPRequestHandler):
    """Shows the page below a sub-path; what lies elsewhere is somebody else's."""

    at, page, whole, passed_on = "/tools/edit", "", False, ()

    def do_GET(self):
        if not self.path.startswith(f"{self.at}/"):
            self.send_error(404, "not the page's")
            return
        path = self.path if self.whole else self.path.removeprefix(self.at)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name in self.passed_on}
        status, answered, text = request(self.page, path, self.command, body, **headers)
        self.send_response(status)
        for name in ("Content-Type",):
            self.send_header(name, answered[name])
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def proxied(page, whole, passed_on):
    """The address of a proxy. whole: it passes the whole path on. passed_on: and these headers."""
    kind = type("Proxied", (Proxy,), {"page": page, "whole": whole, "passed_on": passed_on})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("whole", [False, True])
def test_behind_a_proxys_sub_path_everything_is_found(tmp_path, whole):
    usual = ("Content-Type", "Host", "Origin")
    with served(tmp_path, root_path="/tools/edit/") as page, proxied(page, whole, usual) as proxy:
        status, _, text = request(proxy, "/tools/edit/")
        assert status == 200
        root = re.search(r'"root":"([^"]*)"', text)[1]
        assert root == f"{proxy}/tools/edit"            # what the browser puts before all that it asks for
        assets = {path for path in re.findall(r'(?:src|href)="\./([^"]+)"', text)}
        assert assets and all(request(proxy, f"/tools/edit/{path}")[0] == 200 for path in assets)
        visitor = Visitor(proxy, "/tools/edit")
        assert visitor.config["root"] == root
        assert visitor.ask(visitor.event("picture", "upload"), picture=visitor.upload(png(SCENE))) == (True, None)
        own = {"Origin": proxy}
        assert upload(proxy, png(SCENE), at="/tools/edit", **own)[0] == 200
        assert upload(proxy, png(SCENE), at="/tools/edit", Origin="http://evil.example")[0] == 403


def test_a_proxy_under_another_name_is_told_with_the_whole_address(tmp_path):
    """It passes on neither its own name nor the sub-path; the browser says where it saw the page."""
    with (served(tmp_path, root_path="https://edit.example.org/tools/edit") as page,
          proxied(page, False, ("Content-Type", "Origin")) as proxy):
        assert Visitor(proxy, "/tools/edit").config["root"] == "https://edit.example.org/tools/edit"
        assert upload(proxy, png(SCENE), at="/tools/edit", Origin="https://edit.example.org")[0] == 200
        assert upload(proxy, png(SCENE), at="/tools/edit", Origin="https://evil.example")[0] == 403


# ---- the end


@contextmanager
def started(folder):
    """The command as a process, and its page's address."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "diffedit_min", "app", "--model", "random"], env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process, re.search(r"http://\S+/", process.stdout.readline())[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.full
def test_nothing_is_left_however_the_server_ends(tmp_path):
    """Nor, when it was killed, after the next start."""
    for name, code in (("SIGHUP", 143), ("SIGKILL", -9), ("SIGTERM", 143)):
        with started(tmp_path) as (process, address):
            assert upload(address, png(SCENE))[0] == 200
            folder, = tmp_path.glob(f"{PREFIX}*")
            assert list(folder.rglob("a.png"))
            process.send_signal(getattr(signal, name))
            assert process.wait(60) == code, name
            assert folder.exists() is (name == "SIGKILL")
