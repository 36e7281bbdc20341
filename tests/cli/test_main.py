"""Handling of errors and warnings: one message, an exit status, and no text of a library."""

from __future__ import annotations

import sys
import warnings

import pytest

from scaling.cli import main as cli
from scaling.errors import DataError, UserError


def test_no_warning_of_a_library_reaches_the_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setattr(
        cli, "app", lambda **_: warnings.warn("overflow", RuntimeWarning, stacklevel=1))
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "status"), [
    (UserError("the words"), 2), (DataError("the data"), 1), (MemoryError(), 2),
    (FileNotFoundError(2, "No such file", "x"), 2),
])
def test_errors_end_with_one_message_and_a_status(monkeypatch, capsys, error, status) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1


def test_an_unexpected_error_is_one_message(monkeypatch, capsys) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with pytest.raises(ZeroDivisionError):  # with SCALING_TRACEBACK=1, which tests set
        cli.main()
    monkeypatch.delenv("SCALING_TRACEBACK")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: ZeroDivisionError: division by zero; ")


@pytest.mark.parametrize(("words", "message"), [
    (["allocate", "besiroglu2024", "--fixed-n", "7B"],
     "--fixed-n 7B: a number is expected, such as 7e9; see `scaling allocate --help`"),
    (["fit", "x", "--bootstrap", "1e3"], "--bootstrap 1e3: a whole number is expected"),
    (["sweep", "plan", "x", "--workers", "0"], "--workers 0: at least 1 is expected"),
    (["fit", "x", "--interval", "no"], "--interval no: 'no' is not one of"),
    (["fit", "--nosuch"], "no such option: --nosuch"), (["fit"], "missing argument 'RUNS'"),
    (["nosuch"], "no such command 'nosuch'"),
])
def test_invalid_words_are_named_in_one_message(command, words, message) -> None:
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(("name", "value", "error"), [
    ("JAX_ENABLE_X64", "banana", "invalid truth value 'banana' for environment 'JAX_ENABLE_X64'"),
    ("JAX_NUM_CPU_DEVICES", "abc", 'Invalid value "abc" for JAX flag jax_num_cpu_devices'),
    ("MPLBACKEND", "nonsense", "Key backend: 'nonsense' is not a valid value for backend"),
])
def test_a_variable_that_a_library_refuses_is_named(monkeypatch, capsys, name, value, error):
    def app(**_):
        raise ValueError(error)

    monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    monkeypatch.delenv("SCALING_TRACEBACK")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {name}={value}: a library does not accept this (ValueError: {error}); unset it, "
        "or correct it\n")
