"""Where a run begins: parameters that are drawn, or copied from a trained model.

A run that begins from a trained model is a new run: its optimizer, learning-rate schedule, data and
step count begin at 0, as in fine-tuning. (Resumption from a run's own checkpoints is in
checkpoint.py and session.py.) JAX is imported inside functions only, so that planning stays fast.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scaling.config import (
    FromCheckpoint,
    FromHuggingFace,
    FromRun,
    InitialModel,
    ModelConfig,
    RunConfig,
    semantic_model,
)
from scaling.data.store import TokenStore
from scaling.errors import UserError
from scaling.runs.folder import RunFolder, join_names
from scaling.training.source import (
    TrainedRun,
    checkpointed_run,
    find_run,
    finished_run,
    folder_of_checkpoint,
    load_model,
)

if TYPE_CHECKING:
    from flax import nnx

    from scaling.training.step import TrainState

Module = TypeVar("Module")

_log = logging.getLogger(__name__)

_FREE = {"preset", "init", "dropout", "attention_dropout", "attention", "heads"}
"""Keys of a model that may differ from those of the model that it begins from: they concern neither
the shapes of its parameters nor what these compute, except for the attention mask, to which a
decoder may be adapted (Wang et al. 2022, arXiv 2204.05832). Heads are compared one by one."""

_COMPARED_BELOW = {"context", "source_context", "n_token_types"}


def with_source_of(run: RunConfig, store: TokenStore, runs: Path) -> InitialModel:
    """The `init` of a run with what identifies the trained model by content.

    Args:
        run: a run with a known vocabulary size.
        store: its tokens.
        runs: folder of all runs, for runs that are given by their identity.

    Raises:
        UserError: there is no such trained model, or the model does not fit it; the message names
            the first differences.
        OSError: a file cannot be read; the error names it.
    """
    init = run.init
    if init.path is None:
        return init
    match init:
        case FromRun():
            path = find_run(init.run, runs)
            where = f"init.run = {path}"
            source = finished_run(path, where, "train it first, or choose another run")
            changes: dict[str, Any] = {"run": path, "run_id": source.run_id, "step": source.step}
            model = _model_of(source, store, where)
        case FromCheckpoint():
            where = f"init.checkpoint = {init.checkpoint}"
            source = checkpointed_run(init.checkpoint, where)
            changes = {"run_id": source.run_id, "step": source.step}
            model = _model_of(source, store, where)
        case FromHuggingFace():
            from scaling.interop.describe import describe_folder

            where = f"init.hf = {init.hf}"
            model, sha256 = describe_folder(init.hf)
            changes = {"sha256": sha256}
    if found := [*_differences(model, run.model, init.taken_layers)]:
        raise UserError(f"{where}: does not fit the model of this run: {join_names(found)}; "
                        "take the model's values from there, or choose another initial model")
    if init.taken_layers == tuple(range(model.n_layers)):
        changes["layers"] = None  # all in order, which is the default
    return init.model_copy(update=changes)


def _model_of(source: TrainedRun, store: TokenStore, where: str) -> ModelConfig:
    """The model of a run that was trained on the same tokenizer, as far as its store is still
    there.

    Raises:
        UserError: it was trained on another tokenizer.
    """
    theirs = store.manifest.tokenizer_hash
    with suppress(UserError, OSError):
        theirs = TokenStore.open(source.run.data.store).manifest.tokenizer_hash
    if theirs != store.manifest.tokenizer_hash:
        raise UserError(
            f"{where}: was trained on {source.run.data.store}, whose tokenizer is not that of "
            f"{store.path}; prepare the text with the same tokenizer, or choose another model")
    return source.run.model


def initial_state(run: RunConfig, drawn: TrainState) -> TrainState:
    """The state of a resolved run before its first step, on the current mesh.

    Args:
        run: the run.
        drawn: the state with drawn parameters (`init_state`), some of which are kept if the
            trained model lacks them: those of a head, of a pooler and of ELECTRA's generator.

    Raises:
        UserError: the folder has another model by now, or its files are missing or damaged.
        OSError: a file cannot be read now.
    """
    if run.init.path is None:
        return drawn
    import jax

    from scaling.models import Electra

    arrays, of_generator = _arrays(run)
    model = jax.tree.map(lambda x: x, drawn.model)  # a copy, which may be changed
    if isinstance(model, Electra):
        model.discriminator = _filled(run, model.discriminator, arrays)
        if of_generator:
            model.generator = _filled(run, model.generator, of_generator)
        else:
            _log.warning("%s: has no generator of this size, which is drawn from the seed",
                         run.init.path)
    else:
        model = _filled(run, model, arrays)
    return drawn._replace(model=model)


def _differences(
    source: ModelConfig, model: ModelConfig, layers: tuple[int, ...] | None
) -> Iterator[str]:
    """What keeps a model from beginning from another one, in words."""
    theirs, ours = semantic_model(source), semantic_model(model)
    one_stack = () if model.mode == source.mode == "encoder-decoder" else ("n_encoder_layers",)
    for key in type(model).model_fields:
        if key in _FREE or key in _COMPARED_BELOW or key in one_stack:
            continue
        there, here = (values.get(key, _plain(getattr(config, key)))
                       for values, config in ((theirs, source), (ours, model)))
        if there != here and not (key == "n_layers" and layers is not None):
            yield f"{key} is {_shown(there)} there and {_shown(here)} here"
    for key, there, here in (("context", source.context, model.context),
                             ("source_context", source.source_length, model.source_length)):
        if model.positions == "learned" and here > there:
            yield f"{key} is {there} there and {here} here, which has more learned positions"
    if model.n_token_types not in (0, source.n_token_types):
        yield f"n_token_types is {source.n_token_types} there and {model.n_token_types} here"
    heads = {head.kind: head for head in source.outputs}
    for head in model.outputs:
        if heads.get(head.kind, head) != head:
            yield f"the head {head.kind} has other values there"
    for place, layer in enumerate(layers or ()):
        if layer >= source.n_layers:
            yield f"init.layers has {layer}, and there are layers 0 to {source.n_layers - 1}"
        elif layer % model.period != place % model.period:
            yield (f"init.layers has {layer} for layer {place}, which is of another kind (kinds "
                   f"repeat every {model.period} layers)")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _arrays(run: RunConfig) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The parameters of the trained model by path, and those of its generator if it has one of the
    size that this run needs."""
    from scaling.models import Electra

    init = run.init
    assert init.path is not None
    if isinstance(init, FromHuggingFace):
        from scaling.interop.describe import describe_folder
        from scaling.interop.hf import folder_arrays

        if describe_folder(init.hf).sha256 != init.sha256:
            raise UserError(f"{init.hf}: has other files than when the run was planned; start the "
                            "command again, or put the files back")
        return folder_arrays(init.hf), {}
    assert isinstance(init, FromRun | FromCheckpoint)
    assert init.run_id is not None
    folder = RunFolder(init.run) if isinstance(init, FromRun) else folder_of_checkpoint(init.path)
    trained = load_model(folder, init.run_id, init.step, noun="initial model",
                         fix=f"choose another one for init.{init.key}")
    if not isinstance(trained, Electra):
        return _by_path(trained), {}
    same = trained.generator.config == run.objective.generator(run.model)
    return _by_path(trained.discriminator), _by_path(trained.generator) if same else {}


def _by_path(module: Any) -> dict[str, Any]:
    from scaling.models.params import params_by_path

    return {path: param[...] for path, param in params_by_path(module).items()}


def _filled(run: RunConfig, module: Module, arrays: Mapping[str, Any]) -> Module:
    """A module with its parameters from the arrays; those of a head that has none stay as drawn,
    which is logged.

    Raises:
        UserError: parameters outside the heads have no array, or one of another shape.
    """
    import jax
    import numpy as np

    from scaling.models.params import is_param, params_by_path, with_value

    params = params_by_path(module)
    drawn: list[str] = []
    problems: list[str] = []
    filled: list[nnx.Param[Any]] = []
    for path, param in params.items():
        if path not in arrays:
            (drawn if param.info.part == "head" else problems).append(path)
            filled.append(param)
            continue
        value = _fitted(param, arrays[path], run)
        if value.shape != param.shape:
            problems.append(f"{path} is {[*value.shape]} there and {[*param.shape]} here")
            continue
        # A step donates its arrays, which therefore must not be those of numpy.
        filled.append(with_value(param, jax.device_put(
            value, param[...].sharding, may_alias=not isinstance(value, np.ndarray))))
    if problems:
        raise UserError(f"{run.init.path}: has not the parameters of this model: "
                        f"{join_names(problems)}; choose another initial model")
    if drawn:
        _log.warning("%s: has no %s; drawn from the seed", run.init.path, join_names(drawn, 8))
    whole: Module = jax.tree.unflatten(jax.tree.structure(module, is_leaf=is_param), filled)
    return whole


def _fitted(param: nnx.Param[Any], value: Any, run: RunConfig) -> Any:
    """The rows of an array that a parameter takes: of a stacked one those of the layers that are
    copied, of positions the first."""
    import numpy as np

    from scaling.models.trainable import take_rows
    from scaling.parallel import shard

    info, taken = param.info, run.init.taken_layers
    side = "decoder" if run.model.decoder_layers else "encoder"
    rows: list[int] | None = None
    if info.layers is not None and taken is not None and info.part == side:
        rows = [taken[layer] // run.model.period for layer in info.layers]
    elif info.role == "position" and len(param[...]) < len(value):
        rows = [*range(len(param[...]))]
    if rows is None:
        return value
    if isinstance(value, np.ndarray):
        return value[rows]
    # The axis of layers is never sharded; that of positions may be.
    return take_rows(value if info.stacked else shard(value, None, None), rows)
