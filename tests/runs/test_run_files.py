"""The files of a run: what readers make of them at the edges of what is valid, which line counts
where there are several, and the columns of a record, by hand."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from scaling.config import FromRun, ParamSelection, run_identity
from scaling.errors import UserError
from scaling.runs import logs, state
from scaling.runs.files import (
    LONGEST_LINE,
    is_count,
    is_number,
    is_run_id,
    newest_metrics,
    read_config,
    read_metrics,
    read_record,
)
from scaling.runs.folder import RunFolder, differing_keys, differing_run_keys, join_names
from scaling.runs.logs import RunLog, log_files, newest_log_by_run
from scaling.runs.planned import GRID, PlannedRun
from scaling.runs.record import HeldoutLoss, RunResult, describe_run, make_record
from scaling.runs.state import (
    clear_failure,
    error_text,
    folder_state,
    is_over,
    read_failure,
    readable_metrics,
    record_failure,
    status_and_record,
)
from scaling.runs.trunk import (
    Trunk,
    broken_checkpoints,
    clean_checkpoints,
    holds_only_checkpoints,
    step_folders,
    validate_origin,
)
from scaling.runs.trunk_groups import (
    runs_within_budget,
    shared_steps,
    step_flops,
    trunk_group_cost,
    trunk_groups,
)

ONE, OTHER = "a" * 16, "b" * 16


def test_what_counts_as_a_number():
    assert [is_count(value) for value in (0, 2**63 - 1, -1, 2**63, 1.0, True, "1", None)] == [
        True,
        True,
        False,
        False,
        False,
        False,
        False,
        False,
    ]
    assert [
        is_number(value)
        for value in (-1.5, 0, -(2**63) + 1, 2**63, math.nan, math.inf, True, "1", None)
    ] == [True, True, True, False, False, False, False, False, False]
    assert is_run_id("0123456789abcdef")
    for other in ("0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "../456789abcdef", 3):
        assert not is_run_id(other)


DONE = {"status": "done", "steps": 3, "loss": 2.0}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, ""),
        ({"status": "diverged", "loss": None}, ""),
        ({"loss": None}, "loss"),
        ({"status": "stopped"}, "status"),
        ({"status": 3}, "status"),
        ({"steps": -1}, "steps"),
        ({"steps": 2.0}, "steps"),
        ({"loss": "2"}, "loss"),
        ({"loss": math.nan}, "loss"),
        ({"tokens": -1}, "tokens"),
        ({"params_total": 1.5}, "params_total"),
        ({"params_non_embedding": True}, "params_non_embedding"),
        ({"loss_se": "x"}, "loss_se"),
        ({"bits_per_byte": "x"}, "bits_per_byte"),
        ({"seconds": []}, "seconds"),
        ({"target_entropy": "x"}, "target_entropy"),
        ({"tokens_per_second": "x"}, "tokens_per_second"),
        ({"finished": 3}, "finished"),
        ({"lr": 2**63}, "lr"),
        ({"run_id": ONE}, ""),
        ({"run_id": OTHER}, "another run"),
    ],
)
def test_the_record_of_a_run(tmp_path, changes, wrong):
    path = tmp_path / ONE / "record.json"
    path.parent.mkdir()
    assert read_record(path) is None
    path.write_text(json.dumps(DONE | changes))
    if not wrong:
        assert read_record(path) == DONE | changes
        return
    with pytest.raises(UserError, match=rf"{wrong}( is missing| \()"):
        read_record(path)


@pytest.mark.parametrize("key", DONE)
def test_what_every_record_has(tmp_path, key):
    path = tmp_path / "record.json"
    path.write_text(json.dumps({name: value for name, value in DONE.items() if name != key}))
    with pytest.raises(UserError, match=f"{key} is missing"):
        read_record(path)


def test_other_numbers_that_are_none_are_left_out(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(DONE | {"mfu": math.inf, "loss_se": math.nan, "lr": 0.1}))
    assert read_record(path) == DONE | {"mfu": None, "loss_se": None, "lr": 0.1}


@pytest.mark.parametrize(
    "content",
    [
        {"run_id": "a" * 15, "config": {}},
        {"run_id": 3, "config": {}},
        {"run_id": ONE},
        {"run_id": ONE, "config": []},
        {"run_id": ONE, "config": {}, "semantic": []},
        {"config": {}},
    ],
)
def test_a_configuration_names_its_run(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"run_id": ONE, "config": {"a": 1}}))
    assert read_config(path) == (ONE, {"a": 1}, {})
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a run configuration of this version"):
        read_config(path)


def line(step, **more):
    return json.dumps({"step": step, **more})


def test_lines_of_metrics_in_order_and_from_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert (list(read_metrics(path)), list(newest_metrics(path))) == ([], [])
    lines = [line(step, tokens=step, loss=0.5, seconds=1.0) for step in range(200)]
    torn = '{"step": 7, "to'
    path.write_text("\n".join([*lines[:50], torn, "", *lines[50:]]) + "\n" + torn)
    assert [each["step"] for each in read_metrics(path)] == [*range(200)]
    newest = [each["step"] for each in newest_metrics(path)]
    assert newest == [*range(199, 199 - len(newest), -1)]
    assert 40 < len(newest) < 200, "the last few thousand bytes"
    path.write_text("\n".join(lines[:3]) + "\n")
    assert [each["step"] for each in newest_metrics(path)] == [2, 1, 0], "the first line is whole"
    # One line that is longer than what is looked at first.
    path.write_text(f"{lines[0]}\n{line(1, **{'x' * 5000: 1})}\n")
    assert [each["step"] for each in newest_metrics(path)] == [1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line(1, tokens=2, loss=0.5), ""),
        (line(1, tokens=2, loss=None), ""),
        (line(1, more=0.1), ""),
        (line(1, loss=0.5), "line 2: tokens is missing"),
        (line(-1), "line 2: step"),
        (line(1, tokens=-2), "line 2: tokens"),
        (line(1, tokens=2, loss="x"), "line 2: loss"),
        (line(1, tokens=2, seconds=None), "line 2: seconds"),
        (line(1, loss=True, tokens=1), "loss"),
        ("[" * 10**4, "nested too deeply"),
        (line(1, **{"x" * LONGEST_LINE: 1}), "is longer than"),
        ("\0" * 100, None),
        ("[1]", None),
        (line(1.0), None),
        (line("1"), None),
    ],
)
def test_a_line_of_metrics(tmp_path, text, words):
    """It is read, refused with its number, or left out as torn."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{line(0)}\n{text}\n{line(9)}\n")
    if words:
        with pytest.raises(UserError, match=words):
            list(read_metrics(path))
        return
    found = [each["step"] for each in read_metrics(path)]
    assert found == ([0, 9] if words is None else [0, 1, 9])


def test_the_later_of_two_equal_steps_counts(tmp_path):
    """A run that was killed and went on; an evaluation is a line of its own."""
    folder = RunFolder(tmp_path)
    texts = [
        line(10, tokens=1, loss=1.0),
        line(10, eval_loss=3.0),
        line(15, tokens=1, loss=1.0),
        line(10, tokens=1, loss=2.0),
        line(5, tokens=1, loss=5.0),
        line(10, eval_loss=4.0),
    ]
    folder.metrics_path.write_text("\n".join(texts) + "\n")
    assert folder.metrics() == [
        {"step": 5, "tokens": 1, "loss": 5.0},
        {"step": 10, "tokens": 1, "loss": 2.0},
        {"step": 10, "eval_loss": 4.0},
        {"step": 15, "tokens": 1, "loss": 1.0},
    ]
    assert folder.last_metrics() == {"step": 10, "eval_loss": 4.0}


def test_metrics_are_appended_at_the_beginning_of_a_line(tmp_path):
    folder = RunFolder(tmp_path)
    for text in ("one\n", "two", "three\n"):
        with folder.metrics_writer() as file:
            file.write(text)
            if text.endswith("\n"):  # each line is written when it ends
                assert folder.metrics_path.read_text().endswith(text)
    assert folder.metrics_path.read_text() == "one\ntwo\nthree\n"


def test_half_written_files_are_removed_and_no_others(tmp_path):
    half = [
        f".{name}.json.{'0af' * 4}"
        for name in ("config", "environment", "record", "failure", "lease")
    ]
    others = [
        ".record.json.xyz12345",
        ".record.json.0",
        "record.json",
        ".other.json.00000000",
        "x.record.json.00000000",
    ]
    for name in half + others:
        (tmp_path / name).write_text("")
    (tmp_path / ".record.json.11111111").mkdir()
    (tmp_path / ".record.json.22222222").symlink_to(tmp_path / "record.json")
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError, match="is not the folder of a run, and contains"):
        folder.check_new()
    folder.remove_half_written()
    assert {path.name for path in tmp_path.iterdir()} == {
        *others,
        ".record.json.11111111",
        ".record.json.22222222",
    }


def test_a_folder_with_nothing_but_a_lease_is_new(tmp_path):
    for name in ("lease.000001.json", ".lease.json.0123456789abcdef", ".config.json.01234567"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path).check_new()
    RunFolder(tmp_path / "none").check_new()
    for name in ("notes.txt", "the lease.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"contains notes\.txt, the lease\.txt; choose a new"):
        RunFolder(tmp_path).check_new()
    (tmp_path / "config.json").write_text("")
    RunFolder(tmp_path).check_new()


def test_what_is_in_the_place_of_something_else(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.check()
    folder.checkpoints.write_text("")
    folder.environment_path.mkdir()
    lease = folder.path / "lease.000001.json"
    lease.mkdir()
    assert folder.misplaced() == [lease, folder.checkpoints, folder.environment_path]
    with pytest.raises(UserError, match="is in the place of a file or folder of the run"):
        folder.check()
    folder.checkpoints.unlink()
    folder.checkpoints.symlink_to(tmp_path)
    assert folder.checkpoints in folder.misplaced()


def test_names_and_keys_that_differ():
    assert join_names(["a", "b", "c"]) == "a, b, c"
    assert join_names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 3}, "e": None}) == [
        "a.c",
        "d",
    ]
    assert differing_keys({"a": {"b": 1}}, {"a": 2}) == ["a"]
    # Keys that no loss depends on differ in no run.
    left = {
        "seed": 1,
        "data": {"store": "a"},
        "execution": {"remat": "full"},
        "logging": 1,
        "checkpoint": 1,
        "evaluation": {"every_steps": 1, "sequences": 5},
        "objective": {"teacher": "a", "rate": 1},
        "init": {"run": "a", "step": 3},
    }
    right = {
        "seed": 2,
        "data": {"store": "b"},
        "execution": {},
        "logging": 2,
        "checkpoint": 2,
        "evaluation": {"every_steps": 2, "sequences": 6},
        "objective": {"teacher": "b", "rate": 2},
        "init": {"run": "b", "step": 4},
    }
    assert differing_run_keys(left, right) == [
        "evaluation.sequences",
        "init.step",
        "objective.rate",
        "seed",
    ]


def planned(run, name="", **facts):
    return PlannedRun(run, GRID, facts, RunFolder(Path(name)))


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"trainable": (ParamSelection(layers=(0,)),)}, False),
        ({"init": FromRun(run=Path("x"), run_id=ONE, step=1)}, False),
        ({"precision": "bfloat16"}, False),
        ({"seed": 3}, False),
        ({"batch_sequences": 8}, False),
        ({"data": "elsewhere"}, False),
        ({"tokens": 20 * 64}, True),
        ({"optimizer": "lion"}, False),
        ({"objective": "separate"}, False),
        ({"warmup_steps": 2}, False),
        ({"decay": 0.5}, True),
    ],
)
def test_what_runs_of_a_family_have_in_common(make_run, changes, together):
    run = make_run()
    key, value = next(iter(changes.items()))
    other = {
        "data": lambda: run.model_copy(
            update={"data": run.data.model_copy(update={"store": Path("elsewhere")})}
        ),
        "optimizer": lambda: make_run("optimizer={kind: lion}"),
        "objective": lambda: make_run("objective={kind: causal, separate_documents: true}"),
        "warmup_steps": lambda: make_run(f"schedule.warmup_steps={value}"),
        "decay": lambda: make_run(f"schedule.decay_fraction={value}"),
    }.get(key, lambda: run.model_copy(update=changes))()
    assert (len(trunk_groups([planned(run, "a"), planned(other, "b")])) == 1) == together


def test_a_warm_up_that_is_a_share_of_the_run_is_no_common_beginning(make_run):
    """Runs of two lengths warm up for as many steps only where both have that number."""
    def groups(schedule: str) -> int:
        runs = [make_run(f"tokens={steps * 64}", f"schedule={schedule}") for steps in (20, 40)]
        return len(trunk_groups([planned(run, str(n)) for n, run in enumerate(runs)]))

    assert groups("{kind: wsd, warmup: 0.1}") == 2
    assert groups("{kind: wsd, warmup_steps: 2}") == 1


@pytest.fixture
def lengths(make_run):
    """Runs of 40, 20 and 10 steps, which cool down after 32, 16 and 8; and one by itself."""
    runs = {steps: make_run(f"tokens={steps * 64}") for steps in (10, 40, 20)}
    found = [planned(run, f"run-{steps}", flops_counted=steps * 7.0) for steps, run in runs.items()]
    return [*found, planned(make_run(f"tokens={30 * 64}", seed=1), "alone", flops_counted=210.0)]


def test_shared_steps_are_paid_once(lengths):
    short, long, middle, _ = lengths
    assert [[p.run_id for p in group] for group in trunk_groups(lengths)] == [
        ["run-40", "run-20", "run-10"],
        ["alone"],
    ]
    assert [shared_steps(each, long) for each in (short, middle, long)] == [8, 16, 0]
    assert shared_steps(long, short) == 8, "no further than either"
    assert trunk_group_cost([short, middle, long], lambda p: 3.0) == 3 * (40 + 4 + 2)
    assert trunk_group_cost([short, middle], lambda p: 3.0) == 3 * (20 + 2)
    assert step_flops(short) == 7.0
    same = planned(long.run, "run-99")
    assert trunk_groups([same, long])[0][0].run_id == "run-40", "of equal length the first by name"


def test_a_budget_is_spent_in_order(lengths):
    cost = {"run-10": 10, "run-40": 40 - 8, "run-20": 4, "alone": 30}  # after those before

    def kept(budget):
        return runs_within_budget(lengths, lambda p: 1.0, budget)

    assert kept(sum(cost.values())) == set(cost)
    assert kept(sum(cost.values()) - 1) == {"run-10", "run-40", "run-20"}
    assert kept(10) == {"run-10"}
    assert kept(9.9) == set()
    # The run of 40 steps does not fit; that of 20 adds 12 steps to that of 10.
    assert kept(22) == {"run-10", "run-20"}
    assert kept(21.9) == {"run-10"}


def test_the_columns_of_a_run(make_run, store):
    run = make_run("optimizer.learning_rate=0.004", "model.tied_head=false", seed=5)
    facts = describe_run(run, store)
    d, vocabulary = 8, 257
    blocks = 2 * 12 * d * d + 5 * d  # of two layers, with two norms each and one at the end
    total = blocks + 2 * vocabulary * d
    per_token = 6 * 2 * 12 * d * d + 12 * 2 * 16 * d + 6 * vocabulary * d
    assert facts == {
        "run_id": run_identity(run, store.hash),
        "mode": "decoder-only",
        "family": "custom",
        "objective": "causal",
        "corpus": store.corpus,
        "params_total": total,
        "params_non_embedding": blocks,
        "tokens": 1536,
        "unique_tokens": 1536,
        "epochs": pytest.approx(24 * 4 / ((store.manifest.train.tokens - 1) // 16)),
        "batch_tokens": 64,
        "lr": 0.004,
        "warmup_fraction": 3 / 24,
        "decay_fraction": 5 / 24,
        "seed": 5,
        "flops_6nd": 6 * total * 1536,
        "flops_counted": per_token * 1536,
    }
    named = run.model_copy(update={"model": run.model.model_copy(update={"preset": "gpt2/124M"})})
    assert describe_run(named, store)["family"] == "gpt2"


def test_the_record_of_a_branch_by_hand(make_run, store):
    """Eight of 24 steps are those of the trunk: neither its time nor its FLOPs."""
    run = make_run(trainable={"layers": [1]})
    scores = {"a": HeldoutLoss(3.0, 0.25), "b": HeldoutLoss(5.0, 0.5)}
    result = RunResult("done", scores, 4.5, 24, 2.0004, 77, {"run_id": ONE, "step": 8}, 3, 2.0)
    environment = {"device_kind": "TPU v3", "devices": 4, "commit": "c0ffee"}
    record = make_record(run, store, result, environment)
    flops = describe_run(run, store)["flops_counted"]
    speed = 16 * 64 / 2.0004
    expected = {
        "loss": 3.0,
        "loss_se": 0.25,
        "loss_a": 3.0,
        "loss_b": 5.0,
        "target_entropy": 4.5,
        "bits_per_byte": 3.0 / (2.0 * math.log(2)),
        "status": "done",
        "eval_sequences": 77,
        "steps": 24,
        "flops_shared": flops * 8 // 24,
        "flops_own": flops * 16 // 24,
        "init": None,
        "packed": 3,
        "seconds": 2.0,
        "tokens_per_second": round(speed, 1),
        "device_kind": "TPU v3",
        "devices": 4,
        "commit": "c0ffee",
        "params_trained": 12 * 8 * 8 + 2 * 8,
        "mfu": speed * flops / 1536 / (4 * 61.5e12),
    }
    assert {key: record[key] for key in expected} == pytest.approx(expected)
    assert record["trunk"] == {"run_id": ONE, "step": 8}
    diverged = make_record(run, store, result._replace(status="diverged"), environment)
    assert {diverged[key] for key in ("loss", "loss_se", "bits_per_byte", "loss_a", "loss_b")} == {
        None
    }
    one = make_record(
        run,
        store,
        result._replace(losses={"a": scores["a"]}, bytes_per_prediction=None),
        environment,
    )
    assert "loss_a" not in one
    assert one["bits_per_byte"] is None


def failed(folder, error):
    try:
        raise error
    except type(error) as caught:
        record_failure(folder, caught)


def test_the_state_of_a_folder(tmp_path, caplog):
    folder = RunFolder(tmp_path / "run")
    assert (folder_state(folder).state, folder_state(folder).over) == ("new", False)
    assert not is_over(folder)
    assert readable_metrics(folder) == []
    folder.path.mkdir()
    assert folder_state(folder).state == "new"
    folder.metrics_path.write_text(line(20, tokens=5, loss=2.5) + "\n")
    now = folder_state(folder)
    assert (now.state, now.step, now.loss, now.over, now.status) == (
        "partial",
        20,
        2.5,
        False,
        "planned",
    )
    with folder.lock():
        assert folder_state(folder).state == "running"
    assert not is_over(folder)
    assert [each["step"] for each in readable_metrics(folder)] == [20]
    failed(folder, ValueError("too large"))
    now = folder_state(folder)
    assert (now.state, now.step, now.loss, now.note, now.over, now.status) == (
        "failed",
        20,
        None,
        "ValueError: too large",
        True,
        "failed",
    )
    assert is_over(folder)
    assert "raise error" in "\n".join(read_failure(folder)[1:])
    for status in ("done", "diverged"):
        record = DONE | {"status": status, "steps": 24}
        folder.record_path.write_text(json.dumps(record))
        now = folder_state(folder)
        assert (now.state, now.step, now.loss, now.over, now.status) == (
            status,
            24,
            2.0,
            True,
            status,
        )
        assert status_and_record(folder) == (status, record)
    folder.record_path.write_text("[]")
    now = folder_state(folder)
    assert (now.state, now.step, now.over, now.status) == ("not readable", 20, True, "failed")
    assert status_and_record(folder) == ("failed", {})
    assert clear_failure(folder)
    assert folder_state(folder).state == "partial"
    assert not read_failure(folder)
    assert (folder.path / "record.unreadable").read_text() == "[]"
    assert not clear_failure(folder)
    assert not is_over(folder)
    folder.metrics_path.write_text('{"step": -1}')
    assert is_over(folder)
    with caplog.at_level("WARNING"):
        assert readable_metrics(folder) == []
    assert "its learning curve is left out" in caplog.text


def test_failures_are_cut_at_the_right_end(tmp_path, monkeypatch):
    """The reason keeps its beginning, the traceback its end."""
    monkeypatch.setattr(state, "_MAX_TEXT", 50)
    monkeypatch.setattr(state, "_MAX_NOTE", 20)
    folder = RunFolder(tmp_path)
    failed(folder, ValueError("first" + "x" * 100 + "last"))
    reason, *trace = read_failure(folder)
    assert reason.startswith("ValueError: first")
    assert len(reason) == 50
    assert "".join(trace).endswith("last")
    assert folder_state(folder).note == reason[:20]
    assert clear_failure(folder)


def test_a_full_disk_is_no_failure_of_a_run(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(OSError, match="x"):
            record_failure(folder, OSError(number, "x"))
    assert not read_failure(folder)
    record_failure(folder, OSError(errno.EIO, os.strerror(errno.EIO), "a/b"))
    assert read_failure(folder)[0] == "a/b: input/output error"
    assert error_text(UserError("as it is")) == "as it is"


def test_logs_are_read_from_the_oldest_on(tmp_path, monkeypatch):
    texts = {
        "s.grid.worker-0.log": f"{ONE}: a\nof one\n{OTHER}: b\n",
        "s.grid.worker-1.log": f"{ONE}: c\n",
        "s.grid.slurm/1_log.out": f"{ONE}: d\nlong {'x' * 100}\n{ONE}: e\n",
    }
    (tmp_path / "s.grid.slurm").mkdir()
    for age, name in (
        (3, "s.grid.worker-1.log"),
        (1, "s.grid.slurm/1_log.out"),
        (2, "s.grid.worker-0.log"),
    ):
        (tmp_path / name).write_text(texts[name])
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "other.txt").write_text(f"{ONE}: z\n")
    names = [str(path.relative_to(tmp_path)) for path in log_files(tmp_path)]
    assert names == ["s.grid.worker-1.log", "s.grid.worker-0.log", "s.grid.slurm/1_log.out"]
    newest = newest_log_by_run(tmp_path)
    assert newest == {ONE: tmp_path / names[2], OTHER: tmp_path / names[1]}
    lines = [text for _, text in RunLog(tmp_path, ONE).new_lines()]
    assert lines == [
        f"{ONE}: c",
        f"{ONE}: a",
        "of one",
        f"{ONE}: d",
        f"long {'x' * 100}",
        f"{ONE}: e",
    ]
    assert [text for _, text in RunLog(tmp_path, ONE).new_lines(2)] == lines[-2:]
    monkeypatch.setattr(logs, "_LONGEST_LINE", 40)
    cut = [text for _, text in RunLog(tmp_path, ONE).new_lines()]
    assert cut == [*lines[:4], lines[4][:40], lines[5]]
    monkeypatch.setattr(logs, "_LARGEST_LOG", len(f"{ONE}: e\n"))
    assert [
        text for path, text in RunLog(tmp_path, ONE).new_lines() if path.parent != tmp_path
    ] == lines[-1:]


def test_checkpoints_of_a_trunk(tmp_path):
    runs = tmp_path / "runs"
    trunk = Trunk(runs / "trunks" / ONE)
    assert (step_folders(trunk.path), trunk.steps()) == ([], [])
    for name in ("100", "20", "3.orbax-checkpoint-tmp", "damaged-7.1", "8x"):
        (trunk.path / name / "state").mkdir(parents=True)
    (trunk.path / "5").symlink_to(trunk.path / "20")
    (trunk.path / "6").write_text("")
    (trunk.path / "20" / "notes").write_text("")
    assert trunk.steps() == [20, 100]
    assert [path.name for path in step_folders(trunk.path)] == ["20", "100"]
    assert [path.name for path in clean_checkpoints(trunk.path)] == ["100"]
    assert [path.name for path in broken_checkpoints(trunk.path)] == [
        "3.orbax-checkpoint-tmp",
        "damaged-7.1",
    ]
    assert not holds_only_checkpoints(trunk.path)
    trunk.remove([20, 100], folder=True)
    assert trunk.path.is_dir(), "it has other files"
    assert trunk.steps() == []
    (trunk.path / "5").unlink()
    (trunk.path / "6").unlink()
    (trunk.path / "8x" / "state").rmdir()
    (trunk.path / "8x").rmdir()
    trunk.remove([], folder=False)
    assert trunk.path.is_dir()
    assert holds_only_checkpoints(trunk.path)
    trunk.remove([], folder=True)
    assert not trunk.path.exists()


def test_the_latest_state_that_is_shared(make_run, tmp_path):
    run = make_run(f"tokens={20 * 64}")  # which cools down after 16 steps
    for step in (4, 15, 16, 17):
        (tmp_path / str(step)).mkdir()
    assert Trunk(tmp_path).latest_step(run) == 16
    (tmp_path / "16").rmdir()
    assert Trunk(tmp_path).latest_step(run) == 15


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"run_id": ONE},
        {"run_id": 3, "metrics": []},
        {"run_id": ONE, "metrics": {}},
        {"run_id": ONE, "metrics": [3]},
        {"run_id": ONE, "metrics": [{}]},
        {"run_id": ONE, "metrics": [{"step": -1}]},
        {"run_id": ONE, "metrics": [{"step": 1, "a": "x"}]},
        {"run_id": ONE, "metrics": [{"step": 1, "a": math.nan}]},
    ],
)
def test_the_origin_of_a_state(wrong):
    lines = [{"step": 3, "loss": None, "grad_norm": 2.0}]
    assert validate_origin({"run_id": ONE, "metrics": lines}, Path("c")) == (ONE, lines)
    with pytest.raises(UserError, match="has no valid origin"):
        validate_origin(wrong, Path("c"))
