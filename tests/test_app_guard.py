"""Run: python -m pytest tests/test_app_guard.py

What stands before the page's server: which requests are refused, and what becomes of its files. No server is started.
"""

import asyncio
import json
import time

import pytest

from diffedit_min.studio.app import files
from diffedit_min.studio.app.guard import OF_ALL, OF_VISITOR, OVERHEAD, TEXT_BYTES, UPLOAD, Guard

OWN = {"host": "127.0.0.1:7860"}
JOIN = "/gradio_api/queue/join"


@pytest.fixture
def guard(tmp_path):
    """Before an application that answers with its scope's headers, and with the files of an upload."""
    async def app(scope, receive, send):
        if scope["path"] == "/gradio_api/run/predict":
            raise KeyError(10**9)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        made = []
        if scope["path"] == UPLOAD:
            made = [str(tmp_path / f"{time.monotonic_ns()}.png")]
            with open(made[0], "wb") as file:
                file.truncate(int(headers["content-length"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(made or headers).encode()})

    return Guard(app, {"edit.example.org"}, tmp_path, 1000)


def ask(guard, path="/", method="GET", headers=OWN, client="10.0.0.1", root_path=""):
    """(status, headers, body) of the answer."""
    told = []

    async def send(message):
        told.append(message)

    scope = {"type": "http", "path": path, "method": method, "client": (client, 1), "root_path": root_path,
             "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(guard(scope, None, send))
    start, end = told
    return start["status"], dict(start["headers"]), end["body"].decode()


def upload(guard, length, client="10.0.0.1"):
    status, _, body = ask(guard, UPLOAD, "POST", OWN | {"content-length": str(length)}, client)
    return status, body


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9000", "LOCALHOST", "[::1]:7860", "192.168.1.5:7860",
                                  "edit.example.org", "Edit.Example.Org:443"])
def test_this_machines_hosts_are_answered(guard, host):
    assert ask(guard, headers={"host": host})[0] == 200
    for origin in (f"http://{host}", f"https://{host}", "https://edit.example.org:8443"):
        assert ask(guard, JOIN, "POST", {"host": host, "origin": origin})[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example",
                                  "localhost.evil.example", "localhost@evil.example", "", "[",
                                  "evil.example, localhost"])
def test_a_foreign_name_that_leads_here_is_refused(guard, host):
    assert ask(guard, headers={"host": host})[0] == 403
    assert ask(guard, headers=OWN | {"x-forwarded-host": host})[0] == 403
    assert ask(guard, headers={})[0] == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://localhost:3000", "http://127.0.0.1:7861",
                                    "http://127.0.0.1", "http://evil.example/127.0.0.1:7860", "127.0.0.1:7860",
                                    "http://edit.example.org.evil.example", "http://127.0.0.1:7860@evil.example"])
def test_other_sites_are_refused(guard, origin):
    for path, method in (("/", "GET"), (JOIN, "POST"), (UPLOAD, "POST")):
        status, headers, body = ask(guard, path, method, OWN | {"origin": origin, "content-length": "1"})
        assert status == 403 and body.startswith("only the page itself may ask, not one of ")
        assert headers[b"content-type"].startswith(b"text/plain") and b"access-control-allow-origin" not in headers


def test_a_page_behind_a_proxy_is_asked_under_the_proxys_name(guard):
    proxied = OWN | {"x-forwarded-host": "edit.example.org", "origin": "https://edit.example.org"}
    assert ask(guard, JOIN, "POST", proxied)[0] == 200
    assert ask(guard, "/sub/gradio_api/info", root_path="/sub")[0] == 200
    assert ask(guard, "/sub/gradio_api/proxy=a", root_path="/sub")[0] == 404


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/gradio_api/file=http://169.254.169.254/a.png"), ("GET", "/gradio_api/file=HTTPS://example.org/"),
    ("HEAD", "/gradio_api/file=file:///etc/passwd"), ("GET", "/gradio_api/proxy=https://a.hf.space/"),
    ("GET", "/file=/etc/passwd"), ("GET", "/gradio_api/deep_link"), ("GET", "/gradio_api/vibe-code"),
    ("POST", "/gradio_api/vibe-code"), ("POST", "/gradio_api/process_recording"), ("GET", "/monitoring/summary"),
    ("POST", "/gradio_api/component_server"), ("POST", "/gradio_api/call/find"), ("POST", "/gradio_api/api/find"),
    ("POST", "/gradio_api/run/find"), ("POST", "/login"), ("GET", UPLOAD), ("PUT", UPLOAD), ("POST", "/"),
    ("GET", "/gradio_api/heartbeat/a/b"), ("GET", "/docs"), ("GET", "/\n"),
])
def test_what_the_page_does_not_ask_for_is_not_answered(guard, method, path):
    assert ask(guard, path, method)[0] == 404


def test_what_is_too_long_is_refused_unread(guard):
    """The guard has no way to read here: it is given no `receive`."""
    def status(path, length, **more):
        return ask(guard, path, "POST", OWN | {"content-length": length} | more)[0]

    assert [status(JOIN, str(TEXT_BYTES)), status(JOIN, str(TEXT_BYTES + 1))] == [200, 413]
    assert status(UPLOAD, str(1001 + OVERHEAD)) == 413 != status(UPLOAD, str(1000 + OVERHEAD))
    for said in ("-1", "x", "1e3", ""):
        assert status(UPLOAD, said) == 411
    assert status(JOIN, "5", **{"transfer-encoding": "chunked"}) == 411
    assert ask(guard, UPLOAD, "POST")[0] == 411


def test_a_visitors_uploads_are_bounded_and_so_are_all(guard, tmp_path):
    for _ in range(OF_VISITOR):
        assert upload(guard, 1000)[0] == 200
    status, body = upload(guard, 1)
    assert status == 429 and body.startswith("too many uploads: older ones are deleted after an hour")
    assert ask(guard)[0] == 200                                             # the page itself goes on
    for visitor in range(2, OF_ALL // OF_VISITOR + 1):
        assert all(upload(guard, 1000, f"10.0.0.{visitor}")[0] == 200 for _ in range(OF_VISITOR))
    assert upload(guard, 1, "10.0.1.1")[0] == 507
    gone, *_ = tmp_path.iterdir()
    gone.unlink()                                                           # as when it is an hour old
    assert sum(upload(guard, 1000, f"10.0.0.{visitor}")[0] == 200 for visitor in range(1, 5)) == 1


def test_uploads_on_their_way_are_counted(tmp_path):
    """Many begin at once, before any of them has become a file."""
    told, arrived = [], asyncio.Event

    async def app(scope, receive, send):
        await wait.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"[]"})

    async def send(message):
        told.extend([message["status"]] if "status" in message else [])

    async def all_at_once():
        nonlocal wait
        wait = arrived()
        guard = Guard(app, set(), tmp_path, 1000)
        headers = [(b"host", b"localhost"), (b"content-length", b"1000")]
        scope = {"type": "http", "path": UPLOAD, "method": "POST", "headers": headers, "client": ("10.0.0.1", 1)}
        asking = [asyncio.create_task(guard(dict(scope), None, send)) for _ in range(OF_VISITOR + 2)]
        await asyncio.sleep(0)
        wait.set()
        await asyncio.gather(*asking)
        await guard(dict(scope), None, send)            # nothing is on its way any more

    wait = None
    asyncio.run(all_at_once())
    assert sorted(told) == [200] * (OF_VISITOR + 1) + [429, 429]


def test_an_answer_is_taken_for_what_it_says_and_headers_do_not_come_back(guard):
    status, headers, body = ask(guard, headers=OWN | {"range": "bytes=0-3", "x-other": "kept"})
    assert status == 200 and headers[b"x-content-type-options"] == b"nosniff"
    assert json.loads(body) == OWN | {"x-other": "kept"}


def test_a_request_that_gradio_cannot_answer_is_one_line(guard, capsys):
    status, _, body = ask(guard, "/gradio_api/run/predict", "POST")
    assert (status, body) == (400, "the page doesn't ask so")
    said = capsys.readouterr().err
    assert said.startswith("warning: /gradio_api/run/predict: KeyError: 1000000000") and said.count("\n") == 1


def test_what_is_no_request_is_not_passed_on(guard):
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, None, None))


# ---- files


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_killed_servers_left_is_deleted_at_the_next_start(temporary):
    left = temporary / f"{files.PREFIX}left"
    (left / "hash").mkdir(parents=True)
    (left / "hash" / "a.png").write_bytes(b"a")
    (left / files.LOCK).touch()
    others = temporary / "another-program"
    others.mkdir()
    outside = temporary / "pictures"
    outside.mkdir()
    (outside / "a.png").write_bytes(b"a")
    (outside / files.LOCK).touch()
    (temporary / f"{files.PREFIX}link").symlink_to(outside)
    with files.own_folder() as first:
        assert not left.exists() and others.exists() and (outside / "a.png").exists()
        (first / "b.png").write_bytes(b"b")
        with files.own_folder() as second:              # it lives: its folder stays
            assert (first / "b.png").exists() and first != second and second.is_dir()
        assert first.exists() and not second.exists()
    assert not first.exists()


def test_old_files_are_deleted_but_those_that_the_page_needs(tmp_path):
    for name in ("scene/a.png", "upload/b.png", "tmp123", "empty/folder"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name.startswith("empty") else (tmp_path / name).write_bytes(b"a")
    needed = {tmp_path / "scene" / "a.png"}
    files.delete_old(tmp_path, 3600, needed)
    assert len(list(tmp_path.rglob("*"))) == 7
    files.delete_old(tmp_path, -1, needed)
    assert set(tmp_path.rglob("*")) == {tmp_path / "scene", tmp_path / "scene" / "a.png"}
