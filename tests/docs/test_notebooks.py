"""The notebooks of docs/ run without errors, and their outputs are those in the repository.

`python -m tests.docs.test_notebooks` executes them and writes their outputs.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import tempfile

import matplotlib.image
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from traitlets.config import Config

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
MAX_BYTES = 400_000  # of a notebook with its figures, so that it is shown on a page

_SECONDS = 300  # of a cell, on a busy machine
_INK = 0.03     # share of a figure's pixels in another colour than the background; axes have less
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")


def executed(path):
    """The notebook after it ran in a new process, with docs/ as its working directory."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory() as folder:
        # Sockets that are files: of two tests that start at once, both may find the same port free.
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        NotebookClient(
            notebook, timeout=_SECONDS, kernel_name="python3", record_timing=False, config=sockets,
            resources={"metadata": {"path": str(path.parent)}},
        ).execute(env={**os.environ, "IPYTHONDIR": folder})  # without this user's settings
    notebook.metadata.language_info = {"name": "python"}  # without the version
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """The printed text and the texts of the results of a cell, as (kind, text)."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, output.text))
        elif not figures_of(output):  # whose text is the size of the figure
            found += [(kind, html.unescape(output.data[kind])) for kind in sorted(output.data)]
    return found


def figures_of(output):
    """The figures of an output, as arrays [height, width, channels]."""
    data = output.get("data", {})
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(data["image/png"])))
            ] if "image/png" in data else []


def figures(cell):
    return [figure for output in cell.outputs for figure in figures_of(output)]


def same(left, right):
    """Whether two texts differ in nothing but the last digits of their numbers.

    Most are printed with four significant digits. Another processor adds in another order, and may
    change the digits that were rounded away, so the last one may differ by one. A table is wider
    or narrower by a digit, so spaces and rules do not count.
    """
    words = [re.sub(r"[\s─-]+", " ", _NUMBER.sub("#", text)) for text in (left, right)]
    numbers = [_NUMBER.findall(text) for text in (left, right)]
    return words[0] == words[1] and all(map(_close, *numbers))


def _close(left, right):
    a, b = (float(text.replace(",", "")) for text in (left, right))
    unit = min(map(_last_digit, (left, right)))
    return abs(a - b) <= max(1.001 * unit, 1e-3 * abs(a))


def _last_digit(number):
    mantissa, _, exponent = number.partition("e")
    _, _, decimals = mantissa.partition(".")
    return 10.0 ** (int(exponent or 0) - len(decimals))


def is_blank(figure):
    return (np.abs(figure - figure[0, 0]).max(axis=-1) > 0.1).mean() < _INK


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_in_the_repository(path):
    committed, now = code_cells(nbformat.read(path, as_version=4)), code_cells(executed(path))
    for before, after in zip(committed, now, strict=True):
        assert not any(kind == "stderr" for kind, _ in texts(after)), before.source
        assert [kind for kind, _ in texts(before)] == [kind for kind, _ in texts(after)]
        for (_, old), (_, new) in zip(texts(before), texts(after), strict=True):
            assert same(old, new), f"{before.source}\n\nin the repository:\n{old}\n\nnow:\n{new}"
        drawn = [len(figures(cell)) for cell in (before, after)]
        assert drawn == 2 * [int(".plot" in before.source)], before.source
        assert not any(map(is_blank, figures(after))), before.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_say_nothing_of_the_machine(path):
    assert path.stat().st_size < MAX_BYTES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == [
        i + 1 for i in range(len(code_cells(notebook)))]
    said = "\n".join(text for cell in code_cells(notebook) for _, text in texts(cell))
    assert not re.search(r"/tmp|/home|site-packages|\b[0-9a-f]{64}\b|0x[0-9a-f]+|Warning", said)
    for cell in code_cells(notebook):
        assert not any(map(is_blank, figures(cell)))


def test_texts_are_compared_up_to_the_last_digit():
    assert same("loss 2.396 (2.386 to 2.408)", "loss  2.397 (2.386  to 2.408)")
    assert same("1.2 of 1,071,000", "1.199 of 1,071,900")
    assert not same("loss 2.396", "loss 2.416")
    assert not same("alpha 0.78%", "alpha 0.8%")
    assert not same("alpha is 1", "beta is 1")
    assert not same("1 2", "1 2 3")


def test_empty_axes_are_blank():
    figure = Figure(figsize=(6.6, 4.2))
    figure.subplots()
    file = io.BytesIO()
    figure.savefig(file)
    file.seek(0)
    assert is_blank(matplotlib.image.imread(file))


if __name__ == "__main__":
    for each in NOTEBOOKS:
        nbformat.write(executed(each), each)
        print(f"{each.relative_to(ROOT)}: {each.stat().st_size / 1e3:.0f} kB")
