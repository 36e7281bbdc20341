"""What reaches the terminal, whatever the names and reasons in other people's files hold."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys

import pytest
from rich.text import Text

from scaling import console
from scaling.data.prepare import prepare
from tests.conftest import ROOT

HOSTILE = {
    "clears the screen": "a\x1b[2Jb",
    "sets the title": "a\x1b]0;owned\x07b",
    "one-byte control sequence": "a\x9b2Jb",
    "turns the direction": "a\u202eb\u2066c",
    "returns the carriage": "failed\rdone  ",
    "half a surrogate pair": "a\udce4b",
    "nul": "a\x00b",
}


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 80 columns that keeps what is written to it."""
    def at(width: int) -> io.StringIO:
        kept = io.StringIO()
        rich_console = type(console.out)(
            file=kept, force_terminal=True, width=width, highlight=False, soft_wrap=True,
            color_system=None)
        monkeypatch.setattr(console, "out", rich_console)
        return kept
    return at


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_controls_the_terminal(screen, text):
    kept = screen(80)
    console.out.print(text, markup=False)
    console.out.print(Text(text))
    console.print_table(text, ("run", "note"), [(text, text)])
    console.print_table("", ("run", "note"), [("r", text)] * (console._RICH_ROWS + 1))
    console.print_lines([text])
    shown = kept.getvalue()
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "a" in shown


@pytest.mark.parametrize("text", ["[red]a", "[/x]a", "a[link=https://example.org]b", ":smile:a"])
@pytest.mark.parametrize("rows", [1, console._RICH_ROWS + 1])
def test_no_text_is_taken_for_markup(screen, text, rows):
    kept = screen(80)
    console.print_table(text, (f"run{text}", "note"), [(text, text)] * rows)
    assert kept.getvalue().count(text) == 2 + 2 * rows


def test_colours_are_still_those_of_rich():
    kept = io.StringIO()
    rich_console = type(console.out)(file=kept, force_terminal=True, color_system="standard")
    rich_console.print("warning", style="yellow")
    assert "\x1b[33mwarning" in kept.getvalue()


@pytest.mark.parametrize("width", [20, 40, 79])
def test_no_line_of_a_table_is_wider_than_the_terminal(screen, width):
    kept = screen(width)
    columns = ("law", "90% interval", "held-out loss predicted", "measured")
    rows = [("chinchilla", "1.422 to 1.546", "1.501", "1.437"), ("kaplan-nd", "-", "1.429", "-")]
    console.print_table("laws", columns, rows)
    lines = kept.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    assert all(cell in words or width == 20 for row in rows for cell in row)


@pytest.fixture
def narrow(monkeypatch, tmp_path):
    """A terminal of 40 columns for every command, and a folder with a store and a sweep."""
    for rich_console in (console.out, console.err):
        monkeypatch.setattr(rich_console, "_force_terminal", True)
        monkeypatch.setattr(rich_console, "_color_system", None)
        monkeypatch.setattr(rich_console, "width", 40)
    shutil.copytree(ROOT / "results/quickstart", tmp_path / "q")
    prepare("synthetic:markov,vocab=16,seed=1,tokens=1e5", "none", None, tmp_path / "store")
    (tmp_path / "sweep.yaml").write_text(
        "{name: s, learning_rate: 1e-3, sizes: [{d_model: 16, n_layers: 1, n_heads: 1}],\n"
        "run: {model: {context: 32}, data: {store: store}, batch_sequences: 4},\n"
        "grids: [{kind: product, tokens: [20480, 40960]}]}")
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.mark.parametrize("line", [
    "models", "models gpt3", "models gpt3/6.7B", "fit --list", "data list", "data show store",
    "fit q --law chinchilla --law kaplan-nd --n-convention total --bootstrap 20 --profile alpha "
    "--sensitivity --rolling c --compare --checklist", "fit q --law approach-1 --bootstrap 20",
    "allocate besiroglu2024 --compute 1e20", "compare besiroglu2024 hoffmann2022-3",
    "simulate besiroglu2024 --budgets 1e18:1e19:3 --repeats 5",
    "sweep plan sweep.yaml --no-measure", "sweep suggest q --target n-star --at 1e15 --budget 1e13",
    "sweep status sweep.yaml",
])
def test_the_tables_of_every_command_fit_40_columns(narrow, command, line):
    """Sentences the terminal itself continues on the next line; a row of cells, which stand apart
    by two spaces, would fall to pieces there. Two cells are a name and a sentence."""
    done = command(*line.split(), cwd=narrow)
    assert done.code == 0, done.err
    lines = [line for line in (done.out + done.err).splitlines() if len(line) > 40]
    assert not [line for line in lines if re.search(r"\S {2,}[^ (].*\S {2,}[^ (]", line)]


def test_a_wide_terminal_has_one_line_a_row(screen):
    kept = screen(100)
    console.print_table("", ("law", "loss"), [("chinchilla", "1.501"), ("kaplan-nd", "1.429")])
    assert len(kept.getvalue().splitlines()) == 3


def test_the_version_is_shown():
    done = subprocess.run([sys.executable, "-m", "scaling.cli.main", "--version"],
                          capture_output=True, text=True, check=True)
    assert done.stdout.startswith("scaling ")


def test_a_pipe_that_closes_early_is_no_error():
    command = f"{sys.executable} -m scaling.cli.main models gpt3 --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_a_character_is_no_error(encoding):
    done = subprocess.run([sys.executable, "-m", "scaling.cli.main", "fit", "--list"],
                          env=os.environ | {"PYTHONIOENCODING": encoding},
                          capture_output=True, text=True, encoding=encoding)
    assert done.returncode == 0, done.stderr


def test_no_warning_of_a_library_reaches_the_user():
    code = ("import sys, warnings; from scaling.cli import main, models\n"
            "main.app.command('warn')(lambda: warnings.warn('of a library', RuntimeWarning))\n"
            "sys.argv = ['scaling', 'warn']; main.main()")
    shown = {}
    for options in ((), ("-W", "default")):
        done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True,
                              text=True, check=True)
        shown[options] = done.stderr
    assert shown[()] == ""
    assert "of a library" in shown["-W", "default"]


@pytest.fixture
def clockwork(monkeypatch):
    """A clock that the test turns, and what a pipe gets on standard error."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    kept = io.StringIO()
    monkeypatch.setattr(console, "err", type(console.out)(
        file=kept, width=console._PIPE_WIDTH, highlight=False, soft_wrap=True))
    return now, kept


def test_a_pipe_gets_progress_lines_with_the_time_left(clockwork):
    """Half was done before this process began, which says nothing of how fast it is."""
    now, kept = clockwork
    with console.progress("sweep", 1000, counted=False) as bar:
        for second in range(31):
            now[0] = 100.0 + second
            bar.update(500 + (10 * (second - 4) if second > 5 else 0), "of 1e3 FLOPs")
    assert kept.getvalue().splitlines() == [
        "sweep: 56% of 1e3 FLOPs, 0:44 left", "sweep: 66% of 1e3 FLOPs, 0:34 left",
        "sweep: 76% of 1e3 FLOPs, 0:24 left"]


def test_progress_that_goes_back_gives_no_speed(clockwork):
    now, kept = clockwork
    with console.progress("sweep", 100) as bar:
        for done, total in ((50, 100), (60, 100), (40, 100), (40, 80), (80, 80), (0, 0)):
            now[0] += 11
            bar.update(done, total=total)
    assert kept.getvalue().splitlines() == [
        "sweep: 50%", "sweep: 60%", "sweep: 40%", "sweep: 50%", "sweep: 100%", "sweep: 100%"]


@pytest.mark.parametrize("width", [40, 100])
def test_a_bar_shows_percentage_and_time_left(monkeypatch, width):
    kept = io.StringIO()
    monkeypatch.setattr(console, "err", type(console.out)(
        file=kept, force_terminal=True, width=width, color_system=None))
    with console.progress("tiny.grid", 1.0, counted=False) as bar:
        for done in (1e12, 2e12, 3e12):
            bar.update(done, "of 4e+12 FLOPs, 1 of 3 runs done [bold]", 4e12)
    assert "75%" in kept.getvalue()
    assert "0:00 left" in kept.getvalue()
    assert ("of 4e+12 FLOPs, 1 of 3 runs done [bold]" in kept.getvalue()) == (width == 100)
    assert "000000000" not in kept.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [
    (None, ""), (0, "0:00"), (59.6, "1:00"), (3600, "1h00"), (1e10, "317 years"),
    (float("inf"), "inf years"), (float("nan"), "nan years"),
])
def test_times_of_any_length(seconds, text):
    assert console.clock(seconds) == text


@pytest.mark.parametrize("rows", [3, console._RICH_ROWS + 1])
@pytest.mark.parametrize("width", [10, 40])
def test_many_rows_and_wide_characters_fit_too(screen, width, rows):
    kept = screen(width)
    console.print_table("運" * 30, ("run", "note"), [("run-" * 20, "運動" * 20)] * rows)
    assert max(console.cell_len(line) for line in kept.getvalue().splitlines()) <= width


def test_warnings_are_filtered_too(monkeypatch, capsys):
    monkeypatch.setattr(logging, "lastResort", None)
    console.filter_warnings()
    logging.lastResort.handle(logging.makeLogRecord(
        {"msg": "%s: damaged", "args": ("\x1b[31mred",), "levelno": logging.WARNING}))
    assert capsys.readouterr().err == "warning: \\x1b[31mred: damaged\n"
