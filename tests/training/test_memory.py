"""A run that the memory cannot hold is refused before anything is allocated, and no other is."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from scaling.accounting import count_parameters, training_memory
from scaling.errors import UserError
from scaling.training import memory
from scaling.training.memory import check_memory, device_bytes_of, host_bytes, machine_bytes
from scaling.training.step import init_state


@pytest.mark.parametrize("changes", [
    ["model.d_model=65536"],
    ["model.d_model=4096", "model.n_layers=10000", "model.n_heads=32"],
    ["model.vocab_size=16777216", "model.d_model=8192"],
    ["model.d_model=16777216", "model.n_heads=4096"],
])
def test_a_model_that_is_too_large(make_run, store, changes):
    with pytest.raises(UserError, match=r"needs at least [\d,]+ GB.*this machine has .* GB"):
        check_memory(make_run(*changes), store)


def test_a_batch_that_is_too_large(make_run, store, monkeypatch):
    run = make_run()
    monkeypatch.setattr(memory, "machine_bytes", lambda: host_bytes(run, store) - 1)
    with pytest.raises(UserError, match="of token ids in batches"):
        check_memory(run, store)


def test_a_container_grants_less_than_the_machine_has(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("12345\n")
    monkeypatch.setattr(memory, "_CGROUPS", (str(limit),))
    assert machine_bytes() == 12345
    limit.write_text("max\n")
    assert machine_bytes() > 10**8


def test_what_is_said_to_be_needed_is_no_more_than_what_is(make_run, store):
    run = make_run()
    check_memory(run, store)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(init_state(run)))  # without gradients
    assert state < device_bytes_of(run, on_cpu=True) < 3 * state
    many = run.model_copy(update={"batch_sequences": 4096})
    assert device_bytes_of(many, on_cpu=True) == device_bytes_of(run, on_cpu=True)
    assert device_bytes_of(many, on_cpu=False) > 20 * device_bytes_of(run, on_cpu=False)
    assert device_bytes_of(many, on_cpu=False, devices=64) < device_bytes_of(
        many, on_cpu=False) / 10


def test_token_ids_by_hand(make_run, store):
    """Three arrays of four bytes a position, of a batch and of the held-out sequences."""
    run = make_run()
    assert host_bytes(run, store) == (4 + 10) * 16 * 3 * 4
    both = run.model.model_copy(update={"mode": "encoder-decoder", "source_context": 40})
    assert host_bytes(run.model_copy(update={"model": both}), store) == (4 + 10) * 56 * 3 * 4
    every = run.model_copy(update={"evaluation": run.evaluation.model_copy(
        update={"sequences": 10**9})})
    there = (store.manifest.validation.tokens - 1) // 16
    assert host_bytes(every, store) == (4 + there) * 16 * 3 * 4


def test_a_step_by_hand(make_run):
    """The state, and two thirds of the estimated activations: of a sequence at a time on a CPU, of
    the batch on an accelerator, unless the run says how many."""
    run = make_run("batch_sequences=8")
    state = 16 * count_parameters(run.model).total

    def activations(sequences):
        return training_memory(run.model, sequences=sequences)["activations"] / 1.5

    assert device_bytes_of(run, on_cpu=True) == round(state + activations(1))
    assert device_bytes_of(run, on_cpu=False) == round(state + activations(8))
    assert device_bytes_of(run, on_cpu=False, devices=2) == round(state + activations(4))
    some = make_run("batch_sequences=8", "execution.microbatch_sequences=2")
    assert device_bytes_of(some, on_cpu=True) == round(state + activations(2))
    assert device_bytes_of(some, on_cpu=False) == round(state + activations(2))
    tensor = make_run("batch_sequences=8", "execution.mesh={tensor: 2}")
    assert device_bytes_of(tensor, on_cpu=False, devices=2) == round(
        state / 2 + activations(8) / 2)
    assert device_bytes_of(tensor, on_cpu=True, devices=2) == round(state + activations(1) / 2)


LARGE = ("batch_sequences=256", "tokens=100000", "data.epochs=9", "schedule.warmup_steps=1")


@pytest.mark.parametrize("changes", [
    ("precision=bfloat16",), ("execution.remat=full",), ("execution.attention=blocked",),
    ("execution.cross_entropy=blocked",), ("optimizer={kind: lion}",),
    ("trainable={layers: [1]}",)])
def test_what_else_changes_what_is_needed(make_run, changes):
    usual, other = (device_bytes_of(make_run(*LARGE, *each), on_cpu=False)
                    for each in ((), changes))
    assert other > usual if "bfloat16" in changes[0] else other < usual


def test_what_is_there_is_compared_with_all_that_is_needed(make_run, store, monkeypatch):
    run = make_run()
    needed = device_bytes_of(run, on_cpu=True) + host_bytes(run, store)
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed)
    check_memory(run, store)
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed - 1)
    with pytest.raises(UserError, match="for parameters, gradients, moments and activations"):
        check_memory(run, store)
    room = {"bytes_limit": device_bytes_of(run, on_cpu=False)}
    device = SimpleNamespace(platform="gpu", device_kind="Some GPU", memory_stats=lambda: room)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    check_memory(run, store)
    room["bytes_limit"] -= 1
    with pytest.raises(UserError, match=r"a device \(Some GPU\) has"):
        check_memory(run, store)
    device.memory_stats = lambda: None  # a backend that does not say
    check_memory(run, store)


@pytest.mark.parametrize(("mesh", "batch", "state"), [
    ("{data: 2}", 8, 1), ("{fsdp: 2}", 8, 2), ("{data: 2, fsdp: 2}", 16, 2), ("{tensor: 1}", 4, 1),
])
def test_a_mesh_divides_state_and_batch(make_run, mesh, batch, state):
    """Each device has four sequences, and its share of the state: parameters, gradients and two
    moments."""
    one = make_run(batch_sequences=4)
    many = make_run(f"execution.mesh={mesh}", batch_sequences=batch)
    whole = 16 * count_parameters(one.model).total
    each = device_bytes_of(many, on_cpu=False, devices=batch // 4)
    assert device_bytes_of(one, on_cpu=False) - each == pytest.approx(whole - whole / state, abs=2)
