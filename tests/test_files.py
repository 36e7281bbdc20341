"""Files that are written whole, and what is left of those that were not."""

from __future__ import annotations

import os

from scaling.files import ABANDONED_SECONDS, clear_half_written, write_atomically


def test_old_half_written_files_go_and_those_being_written_stay(tmp_path):
    path = tmp_path / "soak.grid.plan.json"
    write_atomically(path, "{}")
    now = path.stat().st_mtime
    names = {".soak.grid.plan.json.old": ABANDONED_SECONDS + 1, ".soak.grid.plan.json.new": 1,
             ".other.plan.json.old": 1000}
    for name, age in names.items():
        (tmp_path / name).write_text("{")
        os.utime(tmp_path / name, (now - age, now - age))
    clear_half_written(path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *names} - {
        ".soak.grid.plan.json.old"}
