"""The figure of a planned grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.figures.files import write
from scaling.figures.grid import planned_grid


@pytest.fixture
def runs():
    n = np.repeat([1e4, 1e5, 1e6], 3)
    d = np.tile([1e5, 1e6, 1e7], 3)
    states = ["done", "new", "changed", "failed", "running", "partial", "diverged", "new",
              "over budget"]
    return pd.DataFrame({
        "run_id": [str(i) for i in range(9)], "params_non_embedding": n, "params_total": n,
        "tokens": d, "flops_counted": 6 * n * d, "role": ["grid"] * 8 + ["heldout"],
        "state": states})


def test_every_point_is_drawn_in_its_state_and_lines_spend_their_budget(runs, tmp_path):
    doubled = pd.concat([runs, runs.assign(run_id="seed", state="new")])  # a second seed
    for table, copies in ((runs, 1), (doubled, 2)):
        drawing = planned_grid(table, [1e11, 1e12], "demo")
        points = drawing.data[drawing.data["series"] == "run"]
        assert len(points) == 9
        assert (points["runs"] == copies).all()
    single = planned_grid(runs, [1e11, 1e12], "demo").data
    kept = single[single["series"] == "run"].set_index(["params_non_embedding", "tokens"])["state"]
    assert kept.to_dict() == runs.set_index(["params_non_embedding", "tokens"])["state"].to_dict()
    lines = single[single["series"] == "compute"]
    assert np.allclose(6 * lines["n"] * lines["tokens"], lines["flops"])
    written = write(planned_grid(runs, [], "demo"), tmp_path / "grid")
    assert [path.suffix for path in written] == [".png", ".svg", ".csv"]
    assert pd.read_csv(written[-1])["flops"].nunique() == 4
