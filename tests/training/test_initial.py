"""A run begins from the model that it names, which is part of its identity by content."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from scaling.config import ModelConfig, RunConfig, override, run_identity, semantic, validate
from scaling.errors import UserError
from scaling.interop.describe import describe_folder
from scaling.interop.files import save_folder
from scaling.models.params import params_by_path
from scaling.objectives import Examples
from scaling.parallel import make_mesh
from scaling.runs import RUNS
from scaling.runs.folder import RunFolder
from scaling.training.checkpoint import Checkpoints
from scaling.training.initial import _differences, initial_state, with_source_of
from scaling.training.loop import train, train_steps
from scaling.training.packed import drive_together
from scaling.training.resolve import resolve
from scaling.training.source import find_run
from scaling.training.step import init_state, make_eval_step
from tests.conftest import ROOT, run_content
from tests.interop.test_goldens import GOLDENS, golden
from tests.objectives.cases import content_of
from tests.parity.harness import LOGITS, our_outputs_jit, real

LEARNED = ("model.positions=learned", "model.n_layers=3", "model.use_bias=true")


@pytest.fixture(scope="module")
def source(store, tmp_path_factory):
    """The folder of a finished run, and the run."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    content = override(run_content(store.path), LEARNED)
    run = resolve(validate(RunConfig, content, "test"), store)
    train(run, store, folder)
    return folder, run


@pytest.fixture
def begun(make_run, source):
    """A run that begins from the source: `begun("seed=1")`."""
    def make(*overrides, **changes):
        return make_run(*LEARNED, *overrides, **{"init": {"run": str(source[0])}} | changes)

    return make


def first_model(run):
    with jax.set_mesh(make_mesh(run.execution.mesh)):
        return initial_state(run, init_state(run)).model


def saved_model(folder, run, step=None):
    with (
        jax.set_mesh(make_mesh(run.execution.mesh)),
        Checkpoints(folder / "checkpoints", to_read=True) as checkpoints,
    ):
        return checkpoints.restore(init_state(run), step)[0].model


def assert_same(one, other):
    assert params_by_path(one).keys() == params_by_path(other).keys()
    for path, param in params_by_path(one).items():
        np.testing.assert_array_equal(param[...], params_by_path(other)[path][...], err_msg=path)


def test_the_first_loss_is_that_of_the_source(begun, source, store, tmp_path):
    """It is a new run: its first batch is that of step 0, and its first rate that of a warm-up."""
    folder, trained = source
    run = begun("seed=3", "logging.every_steps=1")
    record = train(run, store, tmp_path / "run")
    first = RunFolder(tmp_path / "run").metrics()[0]
    model = saved_model(folder, trained)
    scores = make_eval_step(run.objective)(model, Examples.of(run, store).at(0))
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(float(scores.losses["causal"].mean()), rel=1e-5)
    assert first["learning_rate"] == pytest.approx(run.optimizer.learning_rate / 3)
    assert record["steps"] == run.steps
    assert record["init"] == {"run_id": run_identity(trained, store.hash), "step": trained.steps}
    assert RunFolder(folder).record()["init"] is None
    assert record["loss"] < RunFolder(folder).record()["loss"]


def test_the_identity_is_that_of_the_content(begun, source, make_run, store, tmp_path):
    folder, trained = source

    def identity(run):
        return run_identity(run, store.hash)

    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    run = begun()
    last = folder / "checkpoints" / str(trained.steps)
    same = [begun(init={"run": str(moved)}), begun(init={"checkpoint": str(last)}),
            begun(init={"run": str(folder), "layers": [0, 1, 2]})]
    assert {identity(each) for each in same} == {identity(run)}
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"run_id": "f" * 16}))
    distinct = [run, make_run(*LEARNED), begun(init={"run": str(moved)}),
                begun(init={"run": str(folder), "layers": [0, 2, 2]}),
                begun(trainable={"layers": "last 1"})]
    assert len({identity(each) for each in distinct}) == len(distinct)
    with pytest.raises(UserError, match=r"is not the initial model \w+ any more"):
        first_model(same[0])
    again = validate(RunConfig, json.loads(json.dumps(run.model_dump(mode="json"))), "test")
    assert identity(again) == identity(run)


def test_a_run_is_found_by_its_identity(source, make_run, store, tmp_path, monkeypatch):
    folder, trained = source
    name = run_identity(trained, store.hash)
    shutil.copytree(folder, tmp_path / name)
    content = override(run_content(store.path, init={"run": name}), LEARNED)
    run = resolve(validate(RunConfig, content, "test"), store, tmp_path)
    assert run.init.run == tmp_path / name
    with pytest.raises(UserError, match="does not exist"):
        resolve(validate(RunConfig, content, "test"), store, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)  # where a folder has that name, it is meant
    assert find_run(Path(name), tmp_path / "elsewhere") == Path(name)
    assert find_run(Path("a" * 16), Path("runs")) == Path("runs", "a" * 16)
    assert find_run(Path("another"), Path("runs")) == Path("another")


def test_a_checkpoint_is_in_the_folder_of_a_runs_checkpoints(begun, source, tmp_path):
    """By its name, and next to the run's configuration."""
    folder, trained = source
    shutil.copytree(folder / "checkpoints", tmp_path / "bare/checkpoints")
    with pytest.raises(UserError, match="there is no such checkpoint of a run"):
        begun(init={"checkpoint": str(tmp_path / f"bare/checkpoints/{trained.steps}")})
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run/checkpoints").rename(tmp_path / "run/others")
    for path in (f"run/others/{trained.steps}", "run/others", "run"):
        with pytest.raises(UserError, match="is not a checkpoint of a run; give RUN/checkpoints"):
            begun(init={"checkpoint": str(tmp_path / path)})


def test_an_earlier_checkpoint(begun, source, make_run, store, tmp_path):
    _, trained = source
    steps = iter(range(100))
    train(trained, store, tmp_path / "run", asked_to_stop=lambda: next(steps) == 2)
    run = begun(init={"checkpoint": str(tmp_path / "run/checkpoints/3")})
    assert (run.init.run_id, run.init.step) == (run_identity(trained, store.hash), 3)
    assert_same(first_model(run), saved_model(tmp_path / "run", trained, 3))
    with pytest.raises(UserError, match="no such checkpoint"):
        begun(init={"checkpoint": str(tmp_path / "run/checkpoints/2")})
    with pytest.raises(UserError, match="give RUN/checkpoints/STEP"):
        begun(init={"checkpoint": str(tmp_path / "run")})
    shutil.rmtree(tmp_path / "run/checkpoints/3")
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        first_model(run)


def test_a_checkpoint_that_is_not_the_newest(begun, make_run, store, tmp_path):
    """The run begins from the step that it names, though the folder holds a later one."""
    trained = make_run(*LEARNED, "checkpoint.every_seconds=0")
    steps = iter(range(100))
    train(trained, store, tmp_path / "run", asked_to_stop=lambda: next(steps) == 3)
    older, newest = sorted(
        int(path.name) for path in (tmp_path / "run/checkpoints").glob("[0-9]*"))[-2:]
    first = first_model(begun(init={"checkpoint": str(tmp_path / f"run/checkpoints/{older}")}))
    assert_same(first, saved_model(tmp_path / "run", trained, older))
    with pytest.raises(AssertionError):
        assert_same(first, saved_model(tmp_path / "run", trained, newest))


def test_layers_and_positions_that_are_taken(begun, source):
    folder, trained = source
    whole = params_by_path(saved_model(folder, trained))
    run = begun("model.context=12", "tokens=1152", init={"run": str(folder), "layers": [0, 2, 2]})
    for path, param in params_by_path(first_model(run)).items():
        value = np.asarray(whole[path][...])
        value = value[[0, 2, 2]] if param.info.stacked else value
        value = value[:12] if param.info.role == "position" else value
        np.testing.assert_array_equal(param[...], value, err_msg=path)


@pytest.mark.parametrize(("overrides", "init", "words"), [
    (["model.d_model=16"], {}, ["d_model is 8 there and 16 here, d_head is", "and 1 more;"]),
    (["model.n_layers=2"], {}, ["n_layers is 3 there and 2 here"]),
    (["model.activation=relu", "model.norm=layer"], {},
     ["activation is gelu there and relu here", "norm is rms there"]),
    (["model.vocab_size=400"], {}, ["vocab_size is 257 there and 400 here"]),
    (["model.context=32"], {}, ["context is 16 there and 32 here"]),
    (["model.tied_head=false"], {}, ["tied_head is true there"]),
    (["model.n_layers=2"], {"layers": [0, 7]}, ["init.layers has 7", "layers 0 to 2"]),
    (["model.n_layers=2"], {"layers": [0]}, ["lists 1 layers, and the model has 2"]),
    (["model.heads=[{kind: lm, bias: true}]"], {}, ["the head lm has other values there"]),
])
def test_what_does_not_fit_is_refused(begun, source, overrides, init, words):
    with pytest.raises(UserError) as error:
        begun(*overrides, init={"run": str(source[0]), **init})
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


PLAIN = {"d_model": 16, "n_layers": 4, "n_heads": 2, "context": 8, "vocab_size": 11}
LONG = {"positions": "learned"}
BOTH_SIDES = {"mode": "encoder-decoder"} | LONG
PERIODIC = {"attention_pattern": "alternating", "window": 2}


@pytest.mark.parametrize(("there", "here", "layers", "words"), [
    ({}, {}, None, []),
    # keys that concern no parameter that is copied
    ({}, {"dropout": 0.1, "attention_dropout": 0.2, "attention": "prefix", "init": {"std": 1}},
     None, []),
    ({}, {"d_ff": 64, "n_kv_heads": 2, "d_head": 8, "final_norm": True}, None, []),
    ({}, {"heads": [{"kind": "lm"}, {"kind": "token", "classes": 3}]}, None, []),
    ({"heads": [{"kind": "lm"}, {"kind": "token", "classes": 3}]}, {}, None, []),
    ({"heads": [{"kind": "lm"}, {"kind": "token", "classes": 3}]},
     {"heads": [{"kind": "lm"}, {"kind": "token", "classes": 4}]}, None,
     ["the head token has other values there"]),
    ({}, {"context": 16}, None, []),
    (LONG, LONG | {"context": 16}, None,
     ["context is 8 there and 16 here, which has more learned positions",
      "source_context is 8 there and 16 here, which has more learned positions"]),
    (LONG, LONG | {"context": 4}, None, []),
    (BOTH_SIDES, BOTH_SIDES | {"source_context": 9}, None,
     ["source_context is 8 there and 9 here, which has more learned positions"]),
    ({"mode": "encoder-decoder"}, {"mode": "encoder-decoder", "n_encoder_layers": 2}, None,
     ["n_encoder_layers is 4 there and 2 here"]),
    ({"n_token_types": 2}, {}, None, []),
    ({}, {"n_token_types": 2}, None, ["n_token_types is 0 there and 2 here"]),
    ({"n_token_types": 2}, {"n_token_types": 3}, None, ["n_token_types is 2 there and 3 here"]),
    ({"experts": {"count": 2}}, {"experts": {"count": 4}}, None,
     ['experts is {"count": 2} there and {"count": 4} here']),
    ({}, {"n_layers": 2}, None, ["n_layers is 4 there and 2 here"]),
    ({}, {"n_layers": 2}, (0, 3), []),
    ({}, {"n_layers": 2}, (0, 4), ["init.layers has 4, and there are layers 0 to 3"]),
    (PERIODIC, PERIODIC | {"n_layers": 2}, (2, 1), []),
    (PERIODIC, PERIODIC | {"n_layers": 2}, (0, 2),
     ["init.layers has 2 for layer 1, which is of another kind (kinds repeat every 2 layers)"]),
])
def test_the_differences_that_matter(there, here, layers, words):
    source, model = (validate(ModelConfig, PLAIN | each, "test") for each in (there, here))
    assert list(_differences(source, model, layers)) == words


def test_sources_that_are_not_there_are_refused(begun, source, tmp_path):
    with pytest.raises(UserError, match=r"init.run = .*: does not exist; train it first"):
        begun(init={"run": str(tmp_path / "no")})
    half = tmp_path / "half"
    shutil.copytree(source[0], half)
    (half / "record.json").unlink()
    with pytest.raises(UserError, match="is still to be trained"):
        begun(init={"run": str(half)})
    with pytest.raises(UserError, match=r"no such folder; a model's folder contains config\.json"):
        begun(init={"hf": str(tmp_path / "no")})


def test_another_tokenizer_is_refused(begun, source, make_run, store, tmp_path):
    """Even if it has as many tokens; if the other store is gone, it cannot be known."""
    folder, other = tmp_path / "run", tmp_path / "store"
    shutil.copytree(source[0], folder)
    shutil.copytree(store.path, other)
    config = json.loads((folder / "config.json").read_text())
    config["config"]["data"]["store"] = str(other)
    (folder / "config.json").write_text(json.dumps(config))
    assert begun(init={"run": str(folder)}).init.run_id == begun().init.run_id
    manifest = json.loads((other / "manifest.json").read_text())
    changed = manifest | {"tokenizer_hash": "0" * 64}
    (other / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="whose tokenizer is not that of"):
        begun(init={"run": str(folder)})
    shutil.rmtree(other)
    assert begun(init={"run": str(folder)}).init.run_id == begun().init.run_id


@pytest.fixture(scope="module")
def masked(special_store, tmp_path_factory):
    """A masked language model of three layers."""
    folder = tmp_path_factory.mktemp("masked") / "done"
    content = content_of("masked", special_store.path, tokens=10 * 4 * 30)
    run = resolve(validate(RunConfig, override(content, ["model.n_layers=3"]), "test"),
                  special_store)
    train(run, special_store, folder)
    return folder, run


def of_objective(name, store, init, model=(), **changes):
    content = content_of(name, store.path, tokens=10 * 4 * 30, **changes)
    content["model"] = content["model"] | {"n_layers": 3} | dict(model)
    return resolve(validate(RunConfig, content | {"init": init}, name), store)


def test_a_student_begins_from_layers_of_its_teacher(masked, special_store):
    folder, trained = masked
    run = of_objective(
        "distillation", special_store, {"run": str(folder), "layers": [0, 2]}, {"n_layers": 2},
        objective={"kind": "distillation", "teacher": str(folder)})
    teacher = params_by_path(saved_model(folder, trained))
    for path, param in params_by_path(first_model(run)).items():
        value = np.asarray(teacher[path][...])
        np.testing.assert_array_equal(param[...], value[::2] if param.info.stacked else value)
    assert run.objective.teacher_run == run.init.run_id
    assert semantic(run, "hash")["init"] == {
        "run_id": run.init.run_id, "step": trained.steps, "layers": [0, 2]}


def test_an_electra_from_a_masked_model_draws_its_generator(masked, special_store, caplog):
    folder, trained = masked
    run = of_objective("electra", special_store, {"run": str(folder)})
    with caplog.at_level(logging.WARNING):
        model = first_model(run)
    assert "has no heads.replaced_token" in caplog.text
    assert "no generator of this size" in caplog.text
    with jax.set_mesh(make_mesh(run.execution.mesh)):
        drawn = init_state(run).model
    assert_same(model.generator, drawn.generator)
    assert_same(model.discriminator.encoder, saved_model(folder, trained).encoder)
    assert_same(model.discriminator.heads, drawn.discriminator.heads)


def test_a_source_with_more_heads_and_types(special_store, tmp_path):
    """What the model has no use for is left out."""
    content = content_of("bert", special_store.path)
    run = resolve(validate(RunConfig, content, "bert"), special_store)
    steps = iter(range(100))
    train(run, special_store, tmp_path / "bert", asked_to_stop=lambda: next(steps) == 1)
    init = {"checkpoint": str(tmp_path / "bert/checkpoints/2")}
    mine = of_objective("masked", special_store, init, {"n_layers": 1})
    bert = params_by_path(saved_model(tmp_path / "bert", run, 2))
    params = params_by_path(first_model(mine))
    assert params.keys() < bert.keys()
    for path, param in params.items():
        np.testing.assert_array_equal(param[...], bert[path][...], err_msg=path)
    with pytest.raises(UserError, match="n_token_types is 2 there and 3 here"):
        of_objective("bert", special_store, init, {"n_layers": 1, "n_token_types": 3})


HF = {"GPT2LMHeadModel": "causal", "T5ForConditionalGeneration": "mixture"}


@pytest.mark.parametrize("name", HF)
def test_the_logits_of_a_hugging_face_folder(name, store, tmp_path):
    """Those of transformers."""
    it = golden(next(path for path in GOLDENS if path.stem == name))
    settings = it.settings | {"architectures": [it.architecture]}
    save_folder(tmp_path / "hf", settings, it.weights)
    config, sha256 = describe_folder(tmp_path / "hf")
    content = {"model": config.model_dump(mode="json"), "objective": {"kind": HF[name]},
               "tokens": 10**6, "data": {"store": "none"}, "init": {"hf": str(tmp_path / "hf")},
               "schedule": {"kind": "wsd", "warmup": 0.1}}
    run = validate(RunConfig, content, "test")
    run = run.model_copy(update={"init": with_source_of(run, store, RUNS)})
    assert run.init.sha256 == sha256
    model = first_model(run)
    got = our_outputs_jit(model, it.batch, tuple(it.logits))
    for kind, expected in it.logits.items():
        assert (np.abs(got[kind] - expected) * real(expected, it.batch)).max() < LOGITS
    # Other files are another source.
    (tmp_path / "hf/config.json").write_text(json.dumps(settings | {"dropout": 0.5}))
    assert describe_folder(tmp_path / "hf").sha256 != sha256
    with pytest.raises(UserError, match="has other files than when the run was planned"):
        first_model(run)


def test_runs_side_by_side(begun, source, store, tmp_path):
    """Frozen parameters are still those of the source, bit for bit."""
    filters = {"trainable": [{"parts": ["embedding"]}, {"layers": "last 1"}]}
    runs = {f"seed {seed}": begun(f"seed={seed}", **filters) for seed in (0, 1)}
    found, waiting = {}, iter(runs.items())

    def steps(name, run):
        return name, (yield from train_steps(
            run, store, tmp_path / "pack" / name, mesh=mesh, packed=2))

    mesh = make_mesh(runs["seed 0"].execution.mesh)
    with jax.set_mesh(mesh):
        drive_together(2, lambda: next((steps(*each) for each in waiting), None),
                       lambda named: found.update([named]))
    assert found["seed 0"]["loss"] != found["seed 1"]["loss"]
    whole = params_by_path(saved_model(*source))
    for name, run in runs.items():
        for path, param in params_by_path(saved_model(tmp_path / "pack" / name, run)).items():
            old, new = np.asarray(whole[path][...]), np.asarray(param[...])
            if param.info.stacked:
                assert old[:2].tobytes() == new[:2].tobytes()
                assert old[2].tobytes() != new[2].tobytes()
            else:
                same = param.info.part != "embedding"
                assert (old.tobytes() == new.tobytes()) == same


def test_planning_does_not_import_jax(begun, source, store, tmp_path):
    content = override(run_content(store.path, init={"run": str(source[0])}), LEARNED)
    code = ("import json, sys\n"
            "from scaling.config import RunConfig, validate\n"
            "from scaling.data.run_data import store_of\n"
            "from scaling.interop.describe import describe_folder\n"
            "from scaling.training.resolve import resolve\n"
            "run = validate(RunConfig, json.loads(sys.argv[1]), 'test')\n"
            "print(resolve(run, store_of(run)).init.run_id, 'jax' in sys.modules)")
    printed = subprocess.check_output(
        [sys.executable, "-c", code, json.dumps(content)], text=True, cwd=ROOT)
    assert printed.split() == [run_identity(source[1], store.hash), "False"]
