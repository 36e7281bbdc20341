"""A run that the memory cannot hold is refused before anything is allocated, and no other is."""

from __future__ import annotations

import jax
import pytest

from scaling.accounting import count_parameters
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
