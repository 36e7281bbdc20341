"""Download of one file from a package index: hostile content is never executed or kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scaling.data.sources import index
from scaling.data.sources.fetch import Archive, fetch
from scaling.errors import UserError

FILE = "a_corpus-1.0.tar.gz"
TEXT_HTML = "text/html"
JSON = "application/vnd.pypi.simple.v1+json"


def hostile_archive(marker) -> bytes:
    """A source distribution that writes a file whichever way it is built."""
    code = f"open({str(marker)!r}, 'w').close()\n"
    members = {
        "setup.py": code, "backend.py": code,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
                          'backend-path = ["."]\n',
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in members.items():
            about = tarfile.TarInfo(f"a_corpus-1.0/{name}")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))
    return content.getvalue()


Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves responses by path on this machine, as the only index in pip's configuration."""
    answers: dict[str, Answer | Callable[[BaseHTTPRequestHandler], None]] = {}
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            answer = answers.get(self.path, (404, {}, b""))
            if callable(answer):
                answer(self)
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}"
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
        answers["address"] = address
        yield answers, asked
        running.shutdown()
        thread.join()


def page(url: str, kind: str = TEXT_HTML) -> Answer:
    content = (json.dumps({"files": [{"filename": FILE, "url": url}]}) if kind == JSON
               else f'<html><a href="other.whl">o</a> <a href="{url}#sha256=0">{FILE}</a></html>')
    return 200, {"Content-Type": kind}, content.encode()


def pinned(content: bytes) -> Archive:
    return Archive("A.Corpus", "1.0", FILE, hashlib.sha256(content).hexdigest(), len(content))


PAGE, PLACE = "/simple/a-corpus/", f"/files/{FILE}"


@pytest.mark.parametrize("kind", [TEXT_HTML, JSON])
@pytest.mark.parametrize("redirected", [False, True])
def test_the_published_file_is_put_in_place_and_not_executed(
    server, tmp_path, kind, redirected
):
    answers, asked = server
    content = hostile_archive(tmp_path / "ran")
    answers[PAGE] = page(f"../..{PLACE}", kind)
    answers[PLACE] = (302, {"Location": "/there"}, b"") if redirected else (200, {}, content)
    answers["/there"] = 200, {}, content
    path = fetch(pinned(content))
    assert path.read_bytes() == content
    assert [other.name for other in path.parent.iterdir()] == [FILE]
    assert not (tmp_path / "ran").exists()
    count = len(asked)
    fetch(pinned(content))
    assert len(asked) == count


@pytest.mark.parametrize(("change", "message"), [
    (lambda whole: whole[:-1] + b"x", r"not the published one \(index-url: SHA-256 "),
    (lambda whole: whole + b"more", r"more than the expected [\d,]+ bytes"),
    (lambda whole: whole[:-9], r"[\d,]+ bytes, expected"),
    (lambda whole: b"", r"0 bytes, expected"),
])
def test_a_different_file_is_refused_before_it_is_opened(server, tmp_path, change, message):
    answers, _ = server
    whole = hostile_archive(tmp_path / "ran")
    answers[PAGE] = page(PLACE)
    answers[PLACE] = 200, {}, change(whole)
    with pytest.raises(UserError, match=message) as error:
        fetch(pinned(whole))
    assert "use another index" in str(error.value)
    assert answers["address"] not in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert list((tmp_path / "cache" / "corpora").iterdir()) == []


MOST = 64 * 2**20
"""Limit of the bytes that `endless` sends: far more than sockets buffer for a stopped client."""


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Sends until the client disconnects, practically without end."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for _ in range(MOST // 2**16):
            handler.wfile.write(b"x" * 2**16)


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Sends nothing until the client disconnects."""
    handler.rfile.read(1)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """One byte at a time, each before the timeout."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x")
            threading.Event().wait(0.01)
    except OSError:
        pass


def test_no_more_than_the_published_size_is_downloaded(server, monkeypatch):
    answers, _ = server
    answers[PAGE] = page(PLACE)
    answers[PLACE] = endless
    taken = []
    chunks = index.PackageIndex.chunks

    def counted(self, url, size):
        for chunk in chunks(self, url, size):
            taken.append(len(chunk))
            yield chunk

    monkeypatch.setattr(index.PackageIndex, "chunks", counted)
    with pytest.raises(UserError, match="more than the expected 9 bytes"):
        fetch(pinned(b"published"))
    assert sum(taken) == len(b"published") + 1


@pytest.mark.parametrize(("where", "answer", "message"), [
    (PAGE, (404, {}, b""), "status 404"),
    (PAGE, (500, {}, b""), "status 500"),
    (PAGE, silent, "does not respond within"),
    (PAGE, dripping, "responds too slowly"),
    (PAGE, (200, {"Content-Type": JSON}, b"["), "not that of a package index"),
    (PAGE, (200, {"Content-Type": JSON}, b"[" * 10**6), "not that of a package index"),
    (PAGE, (200, {"Content-Type": JSON}, b'{"files": [{"url": 3}]}'), "not that of a package"),
    (PAGE, (200, {"Content-Type": TEXT_HTML}, b'<a href="http://[">'),
     "none of the package indexes that"),
    (PAGE, (200, {"Content-Length": "9"}, b""), "none of the package indexes that"),
    (PAGE, (302, {"Location": "file:///etc/passwd"}, b""), "not https"),
    (PAGE, (302, {"Location": "ftp://127.0.0.1/x"}, b""), "not https"),
    (PAGE, (302, {"Location": "http://example.org/x"}, b""), "not https"),
    (PAGE, (302, {"Location": PAGE}, b""), "redirects in a loop"),
    (PAGE, page(f"file:///etc/{FILE}"), "not https"),
    (PAGE, page(f"http://example.org/{FILE}"), "not https"),
    (PAGE, page(f"data:,/{FILE}"), "not https|not that of"),
    (PLACE, (404, {}, b""), "status 404"),
    (PLACE, silent, "does not respond within"),
    (PLACE, (302, {"Location": "file:///etc/passwd"}, b""), "not https"),
    (PLACE, (200, {"Transfer-Encoding": "chunked"}, b"not chunks"), "not that of a package index"),
])
def test_an_index_that_does_not_serve_the_file(server, monkeypatch, where, answer, message):
    if answer in (silent, dripping):  # the others respond, however slow this machine is
        monkeypatch.setattr(index, "TIMEOUT_SECONDS", 0.2)
    if answer is dripping:
        monkeypatch.setattr(index, "_PAGE_SECONDS", 0.2)
    answers, _ = server
    answers[PAGE] = page(PLACE)
    answers[where] = answer
    with pytest.raises(UserError, match=message) as error:
        fetch(pinned(b"published"))
    assert "cannot be downloaded" in str(error.value)
    assert "\n" not in str(error.value)
    for address in (answers["address"], "example.org", "/etc/"):
        assert address not in str(error.value)


def test_a_password_is_sent_to_its_host_only_and_never_printed(server, monkeypatch):
    answers, asked = server
    host = answers["address"].removeprefix("http://")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:pass%20word@{host}/simple/")
    answers[PAGE] = page(f"http://localhost:{host.rpartition(':')[2]}{PLACE}")
    answers[PLACE] = 200, {}, b"something else"
    with pytest.raises(UserError) as error:
        fetch(pinned(b"published"))
    assert asked == [(PAGE, "Basic bWU6cGFzcyB3b3Jk"), (PLACE, None)]
    assert "pass" not in str(error.value)


def test_further_locations_are_tried_in_order(server, tmp_path, monkeypatch):
    answers, _ = server
    content = b"published"
    answers[PAGE] = page(PLACE)
    answers[PLACE] = 200, {}, b"another"
    (tmp_path / "simple" / "a-corpus").mkdir(parents=True)
    (tmp_path / "simple" / "a-corpus" / "index.html").write_text(f'<a href="{FILE}">{FILE}</a>')
    (tmp_path / "simple" / "a-corpus" / FILE).write_bytes(content)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file://{tmp_path}/simple")
    assert fetch(pinned(content)).read_bytes() == content
    # Without any index, from a folder of files.
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", f"/nowhere {tmp_path}/folder")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    other = replace(pinned(b"other"), file="b.whl")
    with pytest.raises(UserError, match="none of the package indexes that respond has it"):
        fetch(other)
    (tmp_path / "folder" / "b.whl").write_bytes(b"other")
    assert fetch(other).read_bytes() == b"other"
    os.mkfifo(tmp_path / "folder" / "c.whl")
    with pytest.raises(UserError, match="none of the package indexes that respond has it"):
        fetch(replace(other, file="c.whl"))


def test_pip_environment_variables_are_used_without_pip(server, monkeypatch):
    answers, _ = server
    answers[PAGE] = page(PLACE)
    answers[PLACE] = 200, {}, b"published"
    done = subprocess.CompletedProcess([], 1, "", "/python: No module named pip")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert fetch(pinned(b"published")).read_bytes() == b"published"


def test_without_a_network(monkeypatch, tmp_path, server):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(UserError, match=r"index-url: connection refused.*copy .* from there"):
        fetch(pinned(b"published"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://nowhere.invalid/simple")
    with pytest.raises(UserError, match="cannot be downloaded") as error:
        fetch(pinned(b"published"))
    assert "invalid" not in str(error.value)
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(UserError, match="certificates that pip is configured with"):
        fetch(pinned(b"published"))
    (tmp_path / "pip.conf").write_text("no section")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    with pytest.raises(UserError, match="pip's configuration cannot be read"):
        fetch(pinned(b"published"))
