"""What a worker does with a run that it has claimed."""

from __future__ import annotations

import pytest

from scaling.launch import claim
from scaling.launch.jobs import jobs_of
from scaling.launch.packing import shape_of


@pytest.mark.parametrize("slots", [1, 2])
def test_a_run_that_another_process_takes_over_is_not_written_any_more(plan, slots, capsys):
    """The next lease appears while the run trains. Its former holder finds it before its next
    write, says so, and records no failure."""
    (job, *_) = jobs_of(plan.runs_of_role("grid"))
    folder = job.folder.path
    found = {}

    def files():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def take_over() -> bool:
        if not found and job.folder.metrics_path.exists():
            (folder / "lease.000002.json").write_text("{}")
            found.update(files())
        return False

    outcome = claim.train(job, [], {shape_of(job.run): slots}, take_over,
                          lambda: pytest.fail("the run counts as trained"))
    assert outcome == "passed"
    assert found
    assert files() == found
    assert "another process has taken this run over" in capsys.readouterr().out
