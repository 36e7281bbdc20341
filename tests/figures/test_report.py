"""The report page: complete, offline, escaped, and with all warnings."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.figures import open_results
from scaling.report import write_report
from scaling.report.sections import all_warnings

_EMPTY = {"meta", "img", "br", "hr", "link", "input"}


class _Page(HTMLParser):
    """Collects what a browser would load, the text, and tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _EMPTY:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs
                       if name in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(reported: Path) -> _Page:
    page = _Page()
    page.feed((reported / "report.html").read_text(encoding="utf-8"))
    assert page.open == []  # everything that was opened is closed
    return page


def test_nothing_is_loaded_from_outside(reported: Path, page: _Page) -> None:
    assert page.loads
    assert all(load.startswith("data:image/svg+xml;base64,") for load in page.loads)
    html = (reported / "report.html").read_text()
    assert not re.search(r"https?://", html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_names_of_runs_are_text(reported: Path, page: _Page) -> None:
    html = (reported / "report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "<script>alert('x')</script>" in page.text  # as the reader sees it
    assert "large<b>" in page.text
    assert "sweep & co" in page.text


def test_the_page_shows_the_results(reported: Path, page: _Page) -> None:
    laws = {law["law"]: law for law in json.loads((reported / "laws.json").read_text())["laws"]}
    law = laws["chinchilla"]
    assert f"{law['params']['alpha']:.4g}" in page.text
    assert f"{law['exponents']['a']:.3g}" in page.text
    assert "Kaplan 2020: 0.73" in page.text
    held = law["heldout"]["large<b>"]
    assert f"{100 * held['relative_error']:+.2f}% error" in page.text
    assert "error: predicted / measured - 1" in page.text
    assert "1 diverged" in page.text
    assert page.tags.count("img") == 4
    assert len(pd.read_csv(reported / "runs.csv")) == 26
    assert page.text.count("diverged") >= 2  # in the counts and in the runs table
    assert "scaling fit" in page.text
    for law in laws.values():
        for warning in law["warnings"]:
            assert warning in page.text


def test_the_same_results_give_the_same_page(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (reported / "report.html").read_bytes()
    monkeypatch.setattr("scaling.report.plot", lambda results: ([], {}))  # figures exist already
    write_report(reported)
    assert (reported / "report.html").read_bytes() == before


def test_no_path_of_this_machine_is_on_the_page(reported: Path, page: _Page) -> None:
    assert str(reported.parent) not in page.text


def test_laws_of_other_runs_get_a_warning(reported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(reported, copy)
    frame = pd.read_csv(copy / "runs.csv")
    frame.loc[24, "loss"] *= 1.001
    frame.to_csv(copy / "runs.csv", index=False)
    shown = all_warnings(open_results(copy), [], {})
    assert "chinchilla: was fitted to other data than runs.csv now has" in shown
    assert all_warnings(open_results(reported), [], {}) == ""


def test_a_page_needs_laws(reported: Path, tmp_path: Path) -> None:
    shutil.copy(reported / "runs.csv", tmp_path)
    with pytest.raises(UserError, match=r"laws\.json: no such file; write it with `scaling fit"):
        write_report(tmp_path)
