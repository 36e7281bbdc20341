"""A read-only client of the package indexes that pip is configured to use; finds one named file.

Pages and files are only read as data: the simple API (PEP 503 in HTML, PEP 691 in JSON) over https
with verified certificates, and pip's find-links. pip itself would run the build code of a source
distribution to obtain its metadata. URLs can contain passwords, so no message prints one.
"""

from __future__ import annotations

import ast
import base64
import http.client
import netrc
import os
import posixpath
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from scaling.data.sources.python import normalized_name
from scaling.errors import UserError
from scaling.files import open_regular, parse_json

PYPI = "https://pypi.org/simple"
"""pip's default index."""

TIMEOUT_SECONDS = 15.0
"""Longest wait for a connection, and between two packets of a response."""

_PAGE_SECONDS = 60.0
_SLOWEST = 20_000  # bytes per second; slower downloads are aborted
_PAGE_BYTES = 64 * 2**20  # the largest page of PyPI has about 10 MB
_CHUNK = 2**16
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Unavailable(Exception):
    """A location cannot serve the file; the message is the reason."""


@dataclass(frozen=True)
class Location:
    """A page or folder that may link to the file."""

    name: str
    """The pip option that specifies it, for messages."""
    url: str
    """URL or path."""


@dataclass(frozen=True)
class PackageIndex:
    """All locations that pip would search."""

    options: Mapping[str, str]
    """pip's options by long name, such as index-url."""

    @classmethod
    def configured(cls) -> PackageIndex:
        """Read pip's configuration files and environment variables.

        Raises:
            UserError: The configuration cannot be read.
        """
        found = {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items()
                 if name.startswith("PIP_")}
        command = [sys.executable, "-m", "pip", "config", "list"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and "No module named pip" not in done.stderr:
            raise UserError("pip's configuration cannot be read; fix the errors that this command "
                            "reports: python -m pip config list")
        by_section: dict[str, dict[str, str]] = {}
        for line in done.stdout.splitlines():
            key, _, value = line.partition("=")
            section, _, option = key.partition(".")
            with suppress(ValueError, SyntaxError):
                by_section.setdefault(section, {})[option] = str(ast.literal_eval(value))
        for section in ("global", "download", ":env:"):  # later ones take precedence
            found |= by_section.get(section, {})
        return cls(found)

    def locations(self, distribution: str) -> Iterator[Location]:
        """Locations that may have a distribution, in the order in which they are tried."""
        for number, url in enumerate(self._list_option("find-links"), 1):
            yield Location(f"find-links {number}", url)
        if self.options.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            return
        indexes = [self.options.get("index-url", PYPI), *self._list_option("extra-index-url")]
        for number, url in enumerate(indexes):
            name = f"extra-index-url {number}" if number else "index-url"
            yield Location(name, f"{url.rstrip('/')}/{normalized_name(distribution)}/")

    def links(self, location: Location, file: str) -> list[str]:
        """URLs or paths of the files of this name at a location.

        Raises:
            Unavailable: The location does not respond.
        """
        path = _local_path(location.url)
        if path is None:
            with self._response(location.url, _PAGE_SECONDS) as (response, read):
                content = b"".join(read(_PAGE_BYTES))
                kind, base = response.headers.get_content_type(), response.url
        elif (path / file).is_file():
            return [str(path / file)]
        elif (page := path / "index.html" if path.is_dir() else path).is_file():
            content = _read_local(page, _PAGE_BYTES)
            kind, base = "text/html", page.absolute().as_uri()
        else:
            return []
        found = (_links_in_json if kind.endswith("json") else _links_in_html)(content, base)
        matches = [url for url in found if _file_name(url) == file]
        if path is None and any(_local_path(url) is not None for url in matches):
            raise Unavailable("leads to an address that is not https")
        return matches

    def chunks(self, url: str, size: int) -> Iterator[bytes]:
        """Yield the content of a file, at most `size` + 1 bytes.

        Raises:
            Unavailable: The download fails or is too slow.
        """
        path = _local_path(url)
        if path is not None:
            yield _read_local(path, size + 1)
            return
        with self._response(url, TIMEOUT_SECONDS + size / _SLOWEST) as (_, read):
            yield from read(size + 1)

    @contextmanager
    def _response(self, url: str, seconds: float) -> Iterator[tuple[Any, Any]]:
        """A response, and a function that reads it in chunks up to a given number of bytes."""
        deadline = time.monotonic() + seconds

        def read(largest: int) -> Iterator[bytes]:
            left = largest
            while left > 0 and (chunk := response.read1(min(left, _CHUNK))):
                left -= len(chunk)
                if time.monotonic() > deadline:
                    raise Unavailable("responds too slowly")
                yield chunk

        try:
            with self._opener.open(self.request(url), timeout=TIMEOUT_SECONDS) as response:
                yield response, read
        except UserError:
            raise  # of the caller
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(_reason(error)) from None

    def request(self, url: str) -> urllib.request.Request:
        """A request for a URL, with the user's credentials for its host.

        Raises:
            Unavailable: The connection would not be encrypted, or it is not a network URL.
        """
        parts = urlsplit(url)
        if not self._is_safe(url):
            raise Unavailable("leads to an address that is not https")
        user, password = parts.username, parts.password
        if user is None:
            with suppress(OSError, netrc.NetrcParseError):
                user, _, password = netrc.netrc().authenticators(parts.hostname or "") or (
                    None, None, None)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
        request = urllib.request.Request(
            urlunsplit(bare), headers={"Accept": _ACCEPT, "User-Agent": "scaling"})
        if user is not None:
            secret = f"{unquote(user)}:{unquote(password or '')}".encode()
            # Unredirected: the password must not reach another host.
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(secret).decode()}")
        return request

    def _is_safe(self, url: str) -> bool:
        """Whether a URL may be requested: https, or as in pip http to this machine or to trusted
        hosts."""
        parts = urlsplit(url)
        return parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in (*_LOOPBACK, *self._trusted))

    @cached_property
    def _trusted(self) -> list[str]:
        hosts = [urlsplit(f"//{host}").hostname for host in self._list_option("trusted-host")]
        return [host for host in hosts if host]

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """An opener that supports http and https only, not file: or ftp:."""
        opener = urllib.request.OpenerDirector()
        proxy = self.options.get("proxy")
        proxies = {"http": proxy, "https": proxy} if proxy else None
        for handler in (
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=self._certificates()), _Redirects(self),
            urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        return opener

    def _certificates(self) -> ssl.SSLContext:
        bundle = self.options.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
        folder = bundle is not None and Path(bundle).is_dir()
        try:
            context = ssl.create_default_context(
                cafile=None if folder else bundle, capath=bundle if folder else None)
            if "client-cert" in self.options:
                context.load_cert_chain(self.options["client-cert"])
        except OSError:
            raise Unavailable("the certificates that pip is configured with cannot be read"
                              ) from None
        if bundle is None and not context.cert_store_stats()["x509_ca"]:
            with suppress(ImportError):  # a Python without access to the system's certificates
                import certifi

                context.load_verify_locations(certifi.where())
        return context

    def _list_option(self, option: str) -> list[str]:
        return self.options.get(option, "").split()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to URLs that may be requested."""

    def __init__(self, index: PackageIndex) -> None:
        self._index = index

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        return self._index.request(newurl)


def _local_path(url: str) -> Path | None:
    """The path of a file: URL or a plain path; None for a network URL."""
    if url.startswith("file:"):
        return Path(urllib.request.url2pathname(urlsplit(url).path))
    return None if "://" in url else Path(url).expanduser()


def _read_local(path: Path, largest: int) -> bytes:
    """The first `largest` bytes of a local file."""
    try:
        with open_regular(path) as file:
            return file.read(largest)
    except (OSError, UserError):
        raise Unavailable("its file cannot be read") from None


def _reason(error: Exception) -> str:
    """A description of the error without the URL."""
    if isinstance(error, urllib.error.HTTPError):
        if 300 <= error.code < 400:
            return "leads to an address that is not https, or redirects in a loop"
        return f"responds with status {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"does not respond within {TIMEOUT_SECONDS:.0f} seconds"
    if isinstance(error, ssl.SSLError):
        return "its certificate cannot be verified"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "its response is not that of a package index"


def _file_name(url: str) -> str:
    with suppress(ValueError):
        return posixpath.basename(unquote(urlsplit(url).path))
    return ""


def _links_in_json(content: bytes, base: str) -> list[str]:
    try:
        files = parse_json(content, "")["files"]
        return [urljoin(base, file["url"]) for file in files]
    except (UserError, KeyError, TypeError, AttributeError, ValueError):
        raise Unavailable("its response is not that of a package index") from None


class _Anchors(HTMLParser):
    """Collects the targets of all links of a page."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base, self.links = base, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href is None or tag not in ("a", "base"):
            return
        with suppress(ValueError):
            url = urljoin(self.base, href)
            if tag == "a":
                self.links.append(url)
            else:
                self.base = url


def _links_in_html(content: bytes, base: str) -> list[str]:
    page = _Anchors(base)
    page.feed(content.decode("utf-8", "replace"))
    return page.links
