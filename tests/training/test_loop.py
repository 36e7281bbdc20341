"""A run gives the same numbers however often it is interrupted, and says how it ended."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from scaling.config import RunConfig, validate
from scaling.data.batches import evenly_spaced
from scaling.data.run_data import sequences_of
from scaling.errors import UserError
from scaling.objectives import heldout
from scaling.runs.folder import RunFolder
from scaling.runs.record import HeldoutLoss, RunResult, make_record
from scaling.training import session
from scaling.training.loop import Stopped, train
from scaling.training.resolve import resolve
from tests.objectives.cases import content_of

TIMES = {"seconds", "data_wait_seconds"}


def numbers(folder):
    """The metrics less what depends on the clock."""
    lines = RunFolder(folder).metrics()
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


@pytest.fixture
def undisturbed(make_run, store, tmp_path):
    run = make_run("evaluation.every_steps=10")
    return run, train(run, store, tmp_path / "whole"), numbers(tmp_path / "whole")


def test_a_run_leaves_a_whole_folder(undisturbed, tmp_path, store):
    _, record, lines = undisturbed
    folder = tmp_path / "whole"
    assert json.loads((folder / "record.json").read_text()) == record
    assert record["status"] == "done"
    assert record["tokens"] == 24 * 64 == record["steps"] * record["batch_tokens"]
    assert record["unique_tokens"] == record["tokens"]
    assert record["epochs"] < 1
    assert record["loss"] < math.log(257)
    assert record["flops_6nd"] == 6 * record["params_total"] * record["tokens"]
    ids = heldout(undisturbed[0], store)["ids"][:, 1:]
    per_byte = record["loss"] * ids.size / (math.log(2) * (ids < 256).sum())
    assert record["bits_per_byte"] == pytest.approx(per_byte)
    environment = json.loads((folder / "environment.json").read_text())
    assert {"python", "packages", "commit", "device_kind"} <= set(environment)
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15, 20, 24]
    assert [line["step"] for line in lines if "eval_loss" in line] == [10, 20, 24]
    assert lines[-1]["eval_loss"] == record["loss"]


def test_the_loss_is_a_mean_over_sequences_with_its_error(undisturbed, store, tmp_path):
    """Scored again by hand, one sequence after the other."""
    import jax

    from scaling.objectives import causal_losses
    from scaling.parallel import make_mesh
    from scaling.training.checkpoint import Checkpoints
    from scaling.training.step import init_state

    run, record, _ = undisturbed
    drawn = evenly_spaced(sequences_of(run, store.split("validation")), 10)
    sequences = drawn.ids_BL.astype(np.int32)
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        Checkpoints(tmp_path / "whole" / "checkpoints") as checkpoints,
    ):
        state, progress = checkpoints.restore(init_state(run))
        losses = [float(causal_losses(state.model, s[None]).mean()) for s in sequences]
    assert progress.step == 24
    assert record["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert record["loss_se"] == pytest.approx(np.std(losses, ddof=1) / math.sqrt(10), rel=1e-4)


@pytest.mark.parametrize("stops", [{1}, {7, 8, 20}, set(range(1, 24))])
def test_stopping_and_resuming_changes_no_bit(undisturbed, store, tmp_path, stops):
    run, whole, lines = undisturbed
    asked: set[int] = set()
    outcome = None
    for _ in range(len(stops) + 1):
        steps_done = iter(range(max(asked, default=0) + 1, 1000))

        def stop(steps_done=steps_done):
            step = next(steps_done)
            if step in stops and step not in asked:
                asked.add(step)
                return True
            return False

        outcome = train(run, store, tmp_path / "stopped", asked_to_stop=stop)
    assert not isinstance(outcome, Stopped)
    assert asked == stops
    assert outcome["loss"] == whole["loss"]
    assert outcome["loss_se"] == whole["loss_se"]
    assert numbers(tmp_path / "stopped") == lines


def test_dropout_and_experts_resume_too_and_say_what_was_dropped(make_run, store, tmp_path):
    run = make_run("model.dropout=0.2", "model.experts={count: 3, every: 1, capacity_factor: 0.5}")
    record = train(run, store, tmp_path / "whole")
    steps = iter([False] * 6 + [True])
    path = tmp_path / "parts"
    assert isinstance(train(run, store, path, asked_to_stop=lambda: next(steps)), Stopped)
    assert train(run, store, path)["loss"] == record["loss"]
    assert numbers(path) == numbers(tmp_path / "whole")
    lines = [line for line in numbers(path) if "loss" in line]
    # Three experts with room for half of their share leave at least half of the tokens out.
    assert all(0.45 < line["dropped_fraction"] < 0.9 for line in lines)
    assert all(line["balance_loss"] > 0.9 for line in lines)


def test_a_finished_run_is_not_trained_again(undisturbed, store, tmp_path, monkeypatch):
    run, record, _ = undisturbed
    monkeypatch.setattr(session, "init_state", None)
    assert train(run, store, tmp_path / "whole") == record


def test_a_torn_line_is_left_out_and_does_not_spoil_the_next(make_run, store, tmp_path):
    run = make_run()
    folder = tmp_path / "torn"
    calls = iter(range(100))
    assert isinstance(train(run, store, folder, asked_to_stop=lambda: next(calls) == 7), Stopped)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    train(run, store, folder)
    assert [line["step"] for line in numbers(folder) if "loss" in line] == [5, 10, 15, 20, 24]


def test_a_folder_of_another_run_is_refused(undisturbed, make_run, store, tmp_path):
    with pytest.raises(UserError, match=r"differs in optimizer\.b2, seed"):
        train(make_run("optimizer.b2=0.9", seed=3), store, tmp_path / "whole")
    config = json.loads((tmp_path / "whole/config.json").read_text())
    another = config | {"run_id": "f" * 16}
    for damaged, words in (
        (another | {"semantic": config["semantic"] | {"data": "other"}}, r"differs in data;"),
        (another, r"differs in its layout;"),
        (another | {"config": "none"}, r"is not a run configuration"),
        (config | {"run_id": "../other"}, r"is not a run configuration"),
    ):
        (tmp_path / "whole/config.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=words):
            train(make_run(), store, tmp_path / "whole")


def test_a_run_that_explodes_is_recorded_as_diverged(make_run, store, tmp_path):
    run = make_run("optimizer.learning_rate=1e6", "optimizer.clip_norm=1e9")
    record = train(run, store, tmp_path / "diverged")
    assert record["status"] == "diverged"
    assert record["loss"] is None
    assert record["steps"] < run.steps
    assert json.loads((tmp_path / "diverged" / "record.json").read_text()) == record


def test_a_run_that_turns_to_nan_is_recorded_as_diverged(make_run, store, tmp_path):
    run = make_run("optimizer.learning_rate=1e38", "optimizer.clip_norm=1e30")
    record = train(run, store, tmp_path / "nan")
    assert (record["status"], record["loss"]) == ("diverged", None)
    assert any(line["loss"] is None for line in RunFolder(tmp_path / "nan").metrics())


def test_what_the_data_cannot_give_is_refused(make_run, store):
    too_much = make_run().model_copy(update={"tokens": 10**9})
    with pytest.raises(UserError, match=r"set data\.epochs to"):
        resolve(too_much, store)
    with pytest.raises(UserError, match=r"split of .* is shorter than a sequence"):
        make_run("model.context=100000", "tokens=1e8")
    with pytest.raises(UserError, match=r"model\.vocab_size = 100 is smaller than the 257"):
        make_run("model.vocab_size=100")
    with pytest.raises(UserError, match="at least 2"):
        make_run("evaluation.sequences=1")


def test_repeated_data_is_counted(make_run, store, tmp_path):
    once = (store.manifest.train.tokens - 1) // 16
    steps = once // 4 + 10
    run = make_run(f"tokens={steps * 64}", "data.epochs=2", "evaluation.sequences=4")
    from scaling.runs.record import describe_run

    facts = describe_run(run, store)
    assert facts["unique_tokens"] == once * 16
    assert facts["epochs"] == pytest.approx(steps * 4 / once)
    assert facts["epochs"] > 1


def test_a_loss_of_several_weighted_parts_resumes_too(special_store, tmp_path):
    """Hidden tokens and the next sentence, two sequences at once, stopped between two lines of
    metrics."""
    content = content_of("bert", special_store.path, logging={"every_steps": 4},
                         execution={"microbatch_sequences": 2})
    run = resolve(validate(RunConfig, content, "bert"), special_store)
    record = train(run, special_store, tmp_path / "whole")
    steps = iter([False] * 5 + [True, False, True])
    path = tmp_path / "parts"
    for _ in range(2):
        stopped = train(run, special_store, path, asked_to_stop=lambda: next(steps))
        assert isinstance(stopped, Stopped)
    again = train(run, special_store, path)
    same = {name for name in record if name.startswith("loss")} | {"target_entropy"}
    assert {"loss", "loss_se", "loss_masked", "loss_next_sentence"} < same
    assert {name: again[name] for name in same} == {name: record[name] for name in same}
    lines = numbers(path)
    assert lines == numbers(tmp_path / "whole")
    assert {"loss_masked", "loss_next_sentence"} < set(lines[0])
    assert lines[-1]["eval_loss_next_sentence"] == record["loss_next_sentence"]
    assert record["loss"] == record["loss_masked"]
    # Each hidden token is a byte of text, and nothing else is hidden.
    assert record["bits_per_byte"] == pytest.approx(record["loss"] / math.log(2))


def test_utilisation_is_of_the_devices_own_peak(make_run, store):
    run = make_run()
    scores = {"loss": HeldoutLoss(3.0, 0.1)}
    outcome = RunResult("done", scores, 4.0, run.steps, 2.0, 10, bytes_per_prediction=0.5)
    environment = {"device_kind": "NVIDIA H100 PCIe", "devices": 4, "commit": None}
    record = make_record(run, store, outcome, environment)
    assert record["mfu"] == pytest.approx(record["flops_counted"] / 2.0 / (4 * 756e12))
    assert record["bits_per_byte"] == pytest.approx(3.0 / 0.5 / math.log(2))
    for unknown in ("cpu", "NVIDIA H20"):
        assert make_record(run, store, outcome, environment | {"device_kind": unknown})[
            "mfu"] is None
