"""Launchers by name and by entry point, their options, and the commands with one of another
package."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from scaling.errors import UserError
from scaling.launch.launcher import LauncherKind
from scaling.launch.registry import find_launcher, known_launchers
from scaling.launch.slurm import SlurmOptions
from tests.launch.conftest import forget_plugins


def test_a_launcher_of_another_package_is_listed_and_opened(toy):
    assert [kind.name for kind in known_launchers()] == ["local", "slurm", "toy"]
    assert find_launcher("toy").open(mark="a").options.mark == "a"
    assert all(isinstance(kind, LauncherKind) and kind.options() for kind in known_launchers())


def test_every_launcher_can_be_opened_without_options():
    assert find_launcher("slurm").open().options == SlurmOptions()


@pytest.mark.parametrize(("name", "words"), [
    ("tpy", r"--launcher tpy: unknown launcher; did you mean toy\? known are local \(processes of "
            r"this machine\), slurm \(jobs of Slurm\), toy \(plain processes\)"),
    ("", "--launcher : unknown launcher; known are local"),
])
def test_an_unknown_launcher_is_refused_with_those_that_there_are(toy, name, words):
    with pytest.raises(UserError, match=words):
        find_launcher(name)


@pytest.mark.parametrize(("entry", "words"), [
    ("bad = no_such_module:LAUNCHER", "the launcher bad .* cannot be loaded: No module named"),
    ("bad = toy_plugin:NOTHING", "the launcher bad .* cannot be loaded: .*NOTHING"),
    ("bad = toy_plugin:SOURCE", "is a SourceKind, but a .*LauncherKind is expected"),
    ("bad = scaling.launch.local:LOCAL", "another launcher is named local too"),
])
def test_a_broken_package_is_one_message_and_stops_no_other(
    toy, command, sweep_file, runs, entry, words
):
    (toy / "toy-1.0.dist-info/entry_points.txt").write_text(f"[scaling.launchers]\n{entry}\n")
    forget_plugins()
    assert find_launcher("local").name == "local"
    with pytest.raises(UserError, match=words):
        find_launcher("bad")
    for asked in ("status", "cancel"):
        done = command("sweep", asked, sweep_file, "--runs", runs)
        assert done.code == (2 if asked == "cancel" else 0)
        assert "the launcher bad" in " ".join((done.out + done.err).split())


@pytest.mark.parametrize(("words", "said"), [
    (("--partition", "cpu", "--launcher", "toy"), "--partition: --launcher toy has no such option"),
    (("--account", "a"), "--account: --launcher local has no such option"),
    (("--launcher", "toy", "--launcher-option", "mork=a"), "--launcher toy: mork"),
    (("--launcher", "toy", "--launcher-option", "mark"), "mark"),
    (("--launcher-option", "mark=a"), "--launcher local: mark"),
    (("--launcher", "slurm", "--launcher-option", "time=0"), "--launcher slurm: time"),
    (("--launcher", "slurm", "--partition", "a", "--launcher-option", "partition=b"),
     "is given by another option too"),
    (("--launcher", "slurm"), "needs the number of concurrent jobs, such as --workers 4"),
    (("--launcher", "slurm", "--workers", "2", "--slurm", "time=5"), "use --time"),
    (("--launcher", "sluurm"), "did you mean slurm"),
])
@pytest.mark.parametrize("task", ["run", "prepare"])
def test_wrong_options_of_a_launcher_end_with_one_message(
    toy, command, sweep_file, tmp_path, monkeypatch, task, words, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    first = ("sweep", "run", sweep_file) if task == "run" else ("data", "prepare", "text:a.txt")
    done = command(*first, *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert done.err.count("error:") == 1
    assert not (tmp_path / "stores").exists()
    assert not (tmp_path / "runs").exists()


def test_hours_of_this_machine_do_not_limit_the_work_of_others(toy, command, sweep_file, tmp_path):
    done = command("sweep", "run", sweep_file, "--launcher", "toy", "--workers", "64",
                   "max_device_hours=1", cwd=tmp_path)
    assert (done.code, "max_device_hours: step times are measured" in done.err) == (2, True)
    assert not (tmp_path / "runs").exists()


def test_workers_that_end_with_the_command_are_waited_for(command, sweep_file, tmp_path):
    done = command("sweep", "run", sweep_file, "--no-wait", cwd=tmp_path)
    assert (done.code, "--no-wait: the workers of --launcher local end" in done.err) == (2, True)


def test_a_corpus_is_prepared_by_another_packages_launcher(toy, command, tmp_path):
    (tmp_path / "text").mkdir()
    for number in range(8):
        (tmp_path / f"text/{number}.txt").write_text(f"document {number} of a few words")
    prepare = ("data", "prepare", "slow:text/*.txt", "--validation-fraction", "0.4")
    done = command(*prepare, "--out", "b", "--launcher", "toy", "--launcher-option", "mark=seen",
                   "--workers", 2, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "submitted 1 worker(s) (" in done.err  # all documents are one piece
    assert command(*prepare, "--out", "a").code == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b", "text"]


def test_a_sweep_is_trained_watched_and_cancelled_with_another_packages_launcher(
    toy, command, sweep_file, sweep_content
):
    sweep_content["sizes"] = sweep_content["sizes"][:1]
    sweep_content["grids"] = [{"kind": "product", "tokens": [2000 * 64]}]
    sweep_content["run"]["data"]["epochs"] = 100
    sweep_file.write_text(yaml.safe_dump(sweep_content))
    folder = sweep_file.parent
    run = ("sweep", "run", sweep_file.name, "--launcher", "toy", "--launcher-option", "mark=seen")
    begun = command(*run, "--no-wait", cwd=folder)
    assert (begun.code, "submitted 1 worker(s) (" in begun.err) == (0, True), begun.err
    deadline = time.monotonic() + 60
    while not list(folder.glob("runs/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (worker,) = json.loads(command("sweep", "status", sweep_file.name, "--json").out)["workers"]
    assert (worker["launcher"], worker["state"]) == ("toy", "running")
    environment = Path(f"/proc/{worker['worker']}/environ").read_text().split("\0")
    assert "TOY_MARK=seen" in environment
    assert "workers: 1 running (toy)" in command("sweep", "status", sweep_file.name).out
    cancelled = command("sweep", "cancel", sweep_file.name)
    assert cancelled.out == f"tiny.grid: asked toy {worker['worker']} to save and stop\n"
    (state,) = {run["state"] for run in json.loads(
        command("sweep", "status", sweep_file.name, "--json").out)["runs"]} - {"new"}
    assert state in ("partial", "running")
    ran = command(*run)
    assert ran.code == 0, ran.err
    assert "1 done" in ran.out
    while json.loads(command("sweep", "status", sweep_file.name, "--json").out)["workers"]:
        assert time.monotonic() < deadline + 60
