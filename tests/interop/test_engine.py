"""The conversion engine: layouts are inverse, nothing is left over, and folders are checked."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest

from scaling.config import ModelConfig
from scaling.errors import UserError
from scaling.interop import from_hf, layouts, save_hf, to_hf
from scaling.interop.convert import arrays_by_path
from scaling.interop.hf import from_tensors
from scaling.models import Transformer

pytestmark = pytest.mark.quick

D, H, K, F, E = 6, 2, 3, 5, 4
DRAW = np.random.default_rng(0)
QKV = [(D, H, K)] * 3
LAYOUTS = {
    "table": (layouts.TABLE, [(F, D)], [(F, D)]),
    "vector": (layouts.VECTOR, [(H, K)], [(H * K,)]),
    "linear": (layouts.LINEAR, [(D, F)], [(F, D)]),
    "linear to heads": (layouts.LINEAR, [(D, H, K)], [(H * K, D)]),
    "linear from heads": (layouts.LINEAR_FROM_HEADS, [(H, K, F)], [(F, H * K)]),
    "conv1d": (layouts.CONV1D, [(D, H, K)], [(D, H * K)]),
    "conv1d from heads": (layouts.CONV1D_FROM_HEADS, [(H, K, F)], [(H * K, F)]),
    "fused": (layouts.fused(layouts.CONV1D), QKV, [(D, 3 * H * K)]),
    "fused vector": (layouts.fused(layouts.VECTOR), [(H, K)] * 3, [(3 * H * K,)]),
    "interleaved": (layouts.INTERLEAVED, QKV, [(3 * H * K, D)]),
    "interleaved vector": (layouts.INTERLEAVED, [(H, K)] * 3, [(3 * H * K,)]),
    "experts": (layouts.per_expert(layouts.LINEAR), [(E, D, F)], [(F, D)] * E),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_inverse(name):
    layout, our_shapes, their_shapes = LAYOUTS[name]
    theirs = [DRAW.standard_normal(shape) for shape in their_shapes]
    ours = layout.to_ours(theirs, our_shapes)
    assert [one.shape for one in ours] == our_shapes
    for one, other in zip(layout.to_theirs(ours), theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["linear to heads", "conv1d", "fused", "interleaved"])
def test_layouts_are_the_same_map(name):
    """torch computes the same from its tensor as we do from ours."""
    layout, our_shapes, their_shapes = LAYOUTS[name]
    x, theirs = DRAW.standard_normal(D), DRAW.standard_normal(their_shapes[0])
    y = x @ theirs if "conv1d" in name or name == "fused" else theirs @ x
    ours = [np.einsum("d,dhk->hk", x, w) for w in layout.to_ours([theirs], our_shapes)]
    if name == "interleaved":  # GPT-NeoX: queries, keys and values grouped by head
        expected = y.reshape(H, 3, K).swapaxes(0, 1)
    else:
        expected = y.reshape(len(ours), H, K)
    np.testing.assert_allclose(ours, expected)


@pytest.fixture(scope="module")
def bert():
    """A BERT with its configuration, and the same model as tensors with settings."""
    config = ModelConfig(
        mode="encoder-only", d_model=D, n_layers=2, n_heads=H, d_ff=F, context=7, vocab_size=11,
        n_token_types=2, positions="learned", norm="layer", norm_place="post", norm_epsilon=1e-12,
        embedding_norm=True, use_bias=True, scale_embedding=False, activation="gelu_exact",
        dropout=0.1, attention_dropout=0.2,
        heads=[{"kind": "masked_lm"}, {"kind": "next_sentence"}])
    shapes = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    model = jax.tree.map(lambda leaf: DRAW.standard_normal(leaf.shape).astype(np.float32), shapes)
    return model, config, *to_hf(model, config)


def test_a_layer_goes_to_its_place(bert):
    model, _, tensors, settings = bert
    assert settings["architectures"] == ["BertForPreTraining"]
    ours = arrays_by_path(model)["encoder.layers.kinds.0.attention.query.weight"]
    theirs = tensors["bert.encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(theirs, ours[1].reshape(D, H * K).T)


def test_a_folder_and_its_parts(bert, tmp_path):
    from safetensors.numpy import save_file

    model, config, tensors, settings = bert
    save_hf(model, config, tmp_path / "whole")
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for place, (name, tensor) in enumerate(tensors.items()):
        parts[sorted(parts)[place % 2]][name] = tensor
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path / "whole", folder):
        again, same = from_hf(path)
        assert same == config
        jax.tree.map(np.testing.assert_array_equal, again, model)
    (folder / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"lists the part b\.safetensors"):
        from_hf(folder)
    index["weight_map"]["x"] = "../whole/model.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not in the folder"):
        from_hf(folder)


def test_narrow_numbers_become_float32(bert, tmp_path):
    """bfloat16 is the upper half of float32, so every value is converted exactly."""
    import ml_dtypes
    from safetensors.numpy import save_file

    model, config, tensors, _ = bert
    save_hf(model, config, tmp_path)
    narrow = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    save_file(narrow, tmp_path / "model.safetensors")
    again, _ = from_hf(tmp_path)
    value = arrays_by_path(again)["embedding"]
    assert value.dtype == np.float32
    np.testing.assert_array_equal(
        value, narrow["bert.embeddings.word_embeddings.weight"].astype(np.float32))


def test_pickles_and_damaged_files_are_refused(bert, tmp_path):
    model, config, _, settings = bert
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        from_hf(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"pickled .*save_pretrained"):
        from_hf(tmp_path)
    (tmp_path / "config.json").unlink()
    save_hf(model, config, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        from_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        from_hf(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        from_hf(tmp_path / "nowhere")


@pytest.mark.parametrize(("changes", "message"), [
    ({"hidden_act": "mish"}, "hidden_act is 'mish'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"hidden_size": None}, "lacks hidden_size"),
    ({"num_attention_heads": 4}, "BertForPreTraining: n_heads: 4 does not divide"),
    ({"num_hidden_layers": 3}, r"lack bert\.encoder\.layer\.2\."),
    ({"num_hidden_layers": 1}, r"also have bert\.encoder\.layer\.1\."),
    ({"vocab_size": 12}, r"word_embeddings\.weight has the shape \[11, 6\].*\[12, 6\]"),
])
def test_settings_that_do_not_fit_are_named(bert, changes, message):
    _, _, tensors, settings = bert
    with pytest.raises(UserError, match=message):
        from_tensors("BertForPreTraining", settings | changes, tensors)


def test_tensors_that_do_not_fit_are_named(bert):
    _, _, tensors, settings = bert
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    for wrong, message in [(tensors[name].T, "has the shape"),
                           (tensors[name].astype(np.int8), "has values of type int8")]:
        with pytest.raises(UserError, match=f"{re.escape(name)} {message}"):
            from_tensors("BertForPreTraining", settings, tensors | {name: wrong})


def test_names_and_parts_of_published_weights(bert):
    """The file of bert-base has TensorFlow's names of norms, and heads that its class ignores."""
    model, _, tensors, settings = bert
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias",
                                                                    "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()}
    assert older.keys() != tensors.keys()
    got, config = from_tensors("BertForMaskedLM", settings, older)
    assert [head.kind for head in config.outputs] == ["masked_lm"]
    ours = arrays_by_path(model)
    for path, value in arrays_by_path(got).items():
        np.testing.assert_array_equal(value, ours[path], err_msg=path)
    with pytest.raises(UserError, match="does not name the model's class"):
        from_tensors(None, settings, tensors)


def test_aliases_must_agree_and_may_be_missing(bert):
    _, _, tensors, settings = bert
    copy = "cls.predictions.decoder.weight"
    original = "bert.embeddings.word_embeddings.weight"
    with pytest.raises(UserError, match=f"{copy} and {original} .* tie_word_embeddings: false"):
        from_tensors("BertForPreTraining", settings, tensors | {copy: tensors[copy] + 1})
    fewer = {name: tensor for name, tensor in tensors.items() if name != original}
    model, _ = from_tensors("BertForPreTraining", settings, fewer)
    np.testing.assert_array_equal(arrays_by_path(model)["embedding"], tensors[copy])


def test_a_fallback_is_used_only_if_the_tensor_is_missing(bert):
    """The bias of BERT's output matrix is used, not the one that only older files have."""
    _, _, tensors, settings = bert
    spare, read = "cls.predictions.bias", "cls.predictions.decoder.bias"
    fewer = {name: tensor for name, tensor in tensors.items() if name != read}
    for given in (fewer, tensors | {spare: tensors[spare] + 1}):
        model, _ = from_tensors("BertForPreTraining", settings, given)
        np.testing.assert_array_equal(
            arrays_by_path(model)["heads.masked_lm.vocabulary.bias"], tensors[read])


def test_an_untied_output_is_read_and_saved_with_all_second_names(bert, tmp_path):
    """transformers initialises tensors at random that it expects and does not find."""
    from safetensors.numpy import load_file

    whole, tied, tensors, settings = bert
    own = tensors["cls.predictions.decoder.weight"] + 1
    model, config = from_tensors(
        "BertForPreTraining", settings | {"tie_word_embeddings": False},
        tensors | {"cls.predictions.decoder.weight": own})
    assert not config.tied_head
    np.testing.assert_array_equal(arrays_by_path(model)["heads.masked_lm.vocabulary.weight"], own)
    save_hf(model, config, tmp_path / "untied")
    saved = load_file(tmp_path / "untied" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    np.testing.assert_array_equal(saved["cls.predictions.decoder.weight"], own)
    save_hf(whole, tied, tmp_path / "tied")
    once = load_file(tmp_path / "tied" / "model.safetensors")
    assert tensors.keys() - once.keys() == {
        "cls.predictions.decoder.weight", "cls.predictions.bias"}


def test_a_class_without_heads_has_random_heads(bert):
    model, config, tensors, settings = bert
    trunk = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()
             if name.startswith("bert.")}
    got, same = from_tensors("BertModel", settings | {"architectures": ["BertModel"]}, trunk)
    assert same.outputs == config.outputs
    ours, theirs = arrays_by_path(model), arrays_by_path(got)
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        alike = np.array_equal(value, ours[path])
        assert alike != path.startswith("heads."), path
    back, _ = to_hf(got, same, "BertModel")
    assert back.keys() == trunk.keys()
    without = {name: tensor for name, tensor in trunk.items() if not name.startswith("pooler")}
    assert arrays_by_path(from_tensors("BertModel", settings, without)[0]).keys() == ours.keys()


def test_a_missing_library_is_named(bert, tmp_path, monkeypatch):
    import sys

    model, config, _, _ = bert
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match=r"pip install 'scaling\[interop\]'"):
        save_hf(model, config, tmp_path)


def test_other_dropout_settings_are_ignored(bert):
    """They do not affect the outputs of a trained model."""
    model, config, _, _ = bert
    for rate in (0.0, 0.3):
        changed = ModelConfig(**config.model_dump() | {"dropout": rate})
        assert to_hf(model, changed)[1]["hidden_dropout_prob"] == rate


def test_a_model_that_no_class_supports_is_refused(bert):
    _, config, _, _ = bert
    model = jax.eval_shape(lambda: Transformer(config, jax.random.key(0)))
    for changes, message in [({"norm": "rms"}, "norm: rms"),
                             ({"use_bias": False}, "use_bias: False")]:
        with pytest.raises(UserError, match=f"BertForPreTraining does not support {message}"):
            to_hf(model, ModelConfig(**config.model_dump() | changes), "BertForPreTraining")
    odd = ModelConfig(**config.model_dump() | {"share_layers": "attention"})
    with pytest.raises(UserError, match="no class of transformers supports"):
        to_hf(model, odd)
    with pytest.raises(UserError, match="choose one of BertForPreTraining"):
        to_hf(model, config, "BertForNothing")
    with pytest.raises(UserError, match="neither a model of transformers nor"):
        from_hf(3)


def test_precision_and_execution_reach_the_model(bert, tmp_path):
    from scaling.config import ExecutionConfig

    model, config, tensors, settings = bert
    save_hf(model, config, tmp_path)
    options = {"precision": "bfloat16",
               "execution": ExecutionConfig(scan_layers=True, attention="blocked")}
    for got, _ in (from_hf(tmp_path, **options),
                   from_tensors("BertForPreTraining", settings, tensors, **options)):
        layers = got.encoder.layers
        assert layers.scan
        assert layers.kinds[0].attention.kernel == "blocked"
        assert layers.kinds[0].attention.dtype == "bfloat16"
        assert {array.dtype for array in arrays_by_path(got).values()} == {np.dtype("float32")}


class Tensor:
    """What is used of torch's tensors: one that is trained, and may be narrow."""

    def __init__(self, array, trained=True, wide=True):
        self.array, self.trained, self.wide = array, trained, wide

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def float(self):
        return Tensor(self.array, self.trained)

    def detach(self):
        return Tensor(self.array, False, self.wide)

    def cpu(self):
        return self

    def numpy(self):
        assert not self.trained
        assert self.wide
        return self.array


def test_a_module_of_torch_is_read_without_torch(bert):
    """By the name of its class, whatever its configuration says of others."""
    model, config, tensors, settings = bert
    position_ids = np.arange(7)[None]
    state = {name: Tensor(tensor, wide=False) for name, tensor in tensors.items()}
    state["bert.embeddings.position_ids"] = Tensor(position_ids)

    class BertForPreTraining:
        def __init__(self):
            self.config = type("Config", (), {
                "to_dict": lambda _: settings | {"architectures": ["BertForMaskedLM"]}})()

        def state_dict(self):
            return state

    again, same = from_hf(BertForPreTraining())
    assert same == config
    jax.tree.map(np.testing.assert_array_equal, again, model)
