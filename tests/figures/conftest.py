"""A results folder with runs, curves and laws."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.laws import fit_law, form_named, read, save
from scaling.laws.forms.catalogue import DEFAULT
from scaling.report import write_report

SIZES = (12_288, 49_152, 110_592, 262_144, 450_560)
TOKENS = (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
EVIL = "<script>alert('x')</script>"


def write_runs(folder: Path, *, heldout_status: str = "done") -> None:
    """Runs of 1.3 + 24/N^.34 + 45/D^.29, one of them diverged and one held out."""
    rng = np.random.default_rng(0)
    rows = []
    for n in SIZES:
        for d in TOKENS:
            loss = (1.3 + 24 / (n + 3e4) ** 0.34 + 45 / d**0.29) * np.exp(0.004 * rng.normal())
            rows.append({"run_id": f"run{len(rows):02d}", "role": "grid", "status": "done",
                         "params_total": n + 30_000, "params_non_embedding": n, "tokens": d,
                         "flops_6nd": 6 * (n + 30_000) * d, "lr": 3e-3, "loss": loss})
    rows[7] |= {"status": "diverged", "loss": np.nan}
    rows[8]["run_id"] = EVIL
    n, d = 900_000, 6_000_000
    loss = 1.3 + 24 / n**0.34 + 45 / d**0.29
    rows.append({"run_id": "large<b>", "role": "heldout", "status": heldout_status,
                 "params_total": n, "params_non_embedding": n - 30_000, "tokens": d,
                 "flops_6nd": 6 * n * d, "lr": 1e-3,
                 "loss": loss if heldout_status == "done" else np.nan})
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, curves and every law; tests read it, or copy it first."""
    folder = tmp_path_factory.mktemp("made") / "sweep & co"
    folder.mkdir()
    write_runs(folder)
    curves = [{"run_id": f"run{i:02d}", "tokens": d * step, "loss": 5 / (d * step) ** 0.05}
              for i in range(7) for d in TOKENS[:1] for step in np.linspace(0.01, 1, 300)]
    curves[-1]["loss"] = np.nan
    pd.DataFrame(curves).to_csv(folder / "curves.csv", index=False)
    save([fit_law(read(folder, counting=form.counting), form, resamples=30)
          for form in map(form_named, DEFAULT)], folder / "laws.json")
    return folder


@pytest.fixture(scope="session")
def reported(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its figures and its page, made once; tests read it."""
    copy = tmp_path_factory.mktemp("reported") / fitted.name
    shutil.copytree(fitted, copy)
    assert write_report(copy) == copy / "report.html"
    return copy
