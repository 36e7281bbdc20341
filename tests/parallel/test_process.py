"""Messages when JAX finds no device, or XLA does not accept flags."""

from __future__ import annotations

import os
import subprocess

import jax
import pytest

from scaling.errors import UserError
from scaling.parallel import process
from scaling.parallel.process import check_xla_flags, find_devices


def test_an_error_without_message_is_explained(monkeypatch):
    def refuse():
        raise AssertionError  # as JAX does with JAX_PLATFORMS=cuda where there is no GPU

    monkeypatch.setattr(jax, "devices", refuse)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match="JAX_PLATFORMS=cuda: JAX finds no such device"):
        find_devices()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(AssertionError):  # without JAX_PLATFORMS it is not a mistake of the user
        find_devices()


@pytest.mark.parametrize(("flags", "words"), [
    ("--nonsense=1", r"\(Unknown flag in XLA_FLAGS: --nonsense=1\)"),
    ("--xla_force_host_platform_device_count=abc", r"\(Couldn't interpret value abc for flag "),
])
def test_unknown_xla_flags_are_refused(monkeypatch, tmp_path, flags, words):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(
            UserError, match=f"XLA_FLAGS={flags}: XLA does not accept these flags {words}"):
        check_xla_flags()


def test_an_unreadable_cache_is_not_an_error(monkeypatch, tmp_path):
    def forbidden(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    monkeypatch.setattr(process.subprocess, "run",
                        lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    monkeypatch.setattr(process, "write_atomically", forbidden)
    monkeypatch.setattr(process, "cache_folder", lambda: tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", forbidden)
        check_xla_flags()


def test_accepted_xla_flags_are_not_tried_again(monkeypatch, tmp_path):
    tried = []

    def run(command, **options):
        tried.append(options["env"]["XLA_FLAGS"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(process.subprocess, "run", run)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    for flags in ("--xla_a", "--xla_b", "--xla_a", ""):
        monkeypatch.setenv("XLA_FLAGS", flags)
        check_xla_flags()
    assert tried == ["--xla_a", "--xla_b"]
