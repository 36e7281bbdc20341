"""Inconsistent weights and configurations give one message, in bounded memory."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.interop import from_hf, save_hf
from scaling.interop.hf import from_tensors
from scaling.interop.tensor_file import read_metadata, read_tensors
from tests.fuzz.limits import little_memory
from tests.interop.test_goldens import GOLDENS, golden

pytestmark = pytest.mark.usefixtures("ends")  # some of the inputs are pipes and devices

LLAMA = next(golden(path) for path in GOLDENS if path.stem == "LlamaForCausalLM")


def tensor_file(header: object, data: bytes = bytes(24), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (2, 3), offsets: object = (0, 24)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


A = entry()
LIES = {
    "empty": b"",
    "short": b"\x08\0\0",
    "length of 2**60": tensor_file({"a": A}, length=2**60),
    "length of 2**64 - 1": tensor_file({"a": A}, length=2**64 - 1),
    "length of 0": tensor_file({"a": A}, length=0),
    "length beyond the end": tensor_file({"a": A}, length=1000),
    "no JSON": tensor_file(b"{" * 50),
    "deep": tensor_file(b"[" * 10**6),
    "many digits": tensor_file(b'{"a": ' + b"9" * 5000 + b"}"),
    "a list": tensor_file([A]),
    "no tensor": tensor_file({"a": 3}),
    "beyond the end": tensor_file({"a": entry(shape=(2, 6), offsets=(0, 48))}),
    "far beyond the end": tensor_file({"a": entry(shape=(2**40,), offsets=(0, 2**42))}),
    "before the start": tensor_file({"a": entry(offsets=(-24, 0))}),
    "backwards": tensor_file({"a": entry(offsets=(24, 0))}),
    "overlapping": tensor_file({"a": A, "b": A}),
    "a gap": tensor_file({"a": A}, bytes(48)),
    "a gap in the middle": tensor_file({"a": A, "b": entry(offsets=(36, 60))}, bytes(60)),
    "overlapping a little": tensor_file({"a": A, "b": entry(offsets=(12, 36))}, bytes(36)),
    "another size": tensor_file({"a": entry(shape=(2, 4))}),
    "a negative size": tensor_file({"a": entry(shape=(-2, -3))}),
    "huge sizes": tensor_file({"a": entry(shape=(2**62, 2**62))}),
    "nothing times much": tensor_file({"a": entry(shape=(0, 2**62), offsets=(0, 0))}, b""),
    "many axes": tensor_file({"a": entry(shape=(1,) * 100 + (6,))}),
    "sizes that are strings": tensor_file({"a": entry(shape=("2", 3))}),
    "sizes that are fractions": tensor_file({"a": entry(shape=(2.0, 3.0))}),
    "sizes that are true": tensor_file({"a": entry(shape=(True, 6))}),
    "three offsets": tensor_file({"a": entry(offsets=(0, 12, 24))}),
    "an unknown type": tensor_file({"a": entry(dtype="F128")}),
    "a packed type": tensor_file({"a": entry(dtype="F4")}),
    "no type": tensor_file({"a": entry(dtype=None)}),
    "a type that is a list": tensor_file({"a": entry(dtype=["F32"])}),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_inconsistent_header_is_one_message(tmp_path, lie):
    path = tmp_path / "a.safetensors"
    path.write_bytes(LIES[lie])
    message = r"a\.safetensors: (not a complete|a is of type)"
    with pytest.raises(UserError, match=message) as error, little_memory():
        read_tensors(path)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "dtype"), [
    ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2),
    ("F8_E8M0", ml_dtypes.float8_e8m0fnu), ("BF16", ml_dtypes.bfloat16), ("F16", np.float16),
    ("F32", np.float32), ("F64", np.float64), ("F8_E4M3FNUZ", ml_dtypes.float8_e4m3fnuz),
    ("F8_E5M2FNUZ", ml_dtypes.float8_e5m2fnuz),
])
def test_numbers_of_every_width_become_float32(tmp_path, kind, dtype):
    values = np.array([[1, 2, 4], [0.5, 0.25, 8]]).astype(dtype)
    content = tensor_file({"a": entry(kind, offsets=(0, values.nbytes))}, values.tobytes())
    (tmp_path / "a.safetensors").write_bytes(content)
    found = read_tensors(tmp_path / "a.safetensors")["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("dtype", [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_whole_numbers_stay_what_they_are(tmp_path, dtype):
    values = np.array([[1, 0, 1], [1, 1, 0]] if dtype == "bool" else [[1, 2, 3], [4, 5, 99]], dtype)
    kind = {"bool": "BOOL"}.get(dtype, dtype.upper().replace("UINT", "U").replace("INT", "I"))
    content = tensor_file({"a": entry(kind, offsets=(0, values.nbytes))}, values.tobytes())
    (tmp_path / "a.safetensors").write_bytes(content)
    found = read_tensors(tmp_path / "a.safetensors")["a"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


def test_metadata_of_a_file_is_its_strings(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensor_file({"a": A, "__metadata__": {"b": "c", "d": 3}}))
    assert read_metadata(path) == {"b": "c"}
    for header in ({"a": A}, {"a": A, "__metadata__": [1]}):
        path.write_bytes(tensor_file(header))
        assert read_metadata(path) == {}
    assert list(read_tensors(path)) == ["a"]


@pytest.fixture
def llama(tmp_path):
    """A small model in a folder in Hugging Face's format."""
    model, config = from_tensors(LLAMA.architecture, LLAMA.settings, LLAMA.weights)
    save_hf(model, config, tmp_path / "llama")
    return tmp_path / "llama"


def test_whole_numbers_where_fractions_are_expected(llama):
    for dtype in (np.int64, np.bool_, np.uint8):
        tensors = LLAMA.weights | {"model.norm.weight": LLAMA.weights[
            "model.norm.weight"].astype(dtype)}
        with pytest.raises(UserError, match=r"model\.norm\.weight has values of type \w+, where"):
            from_tensors(LLAMA.architecture, LLAMA.settings, tensors)


@pytest.mark.parametrize(("stem", "name"), [
    ("GPT2LMHeadModel", "n_embd"), ("GPTNeoXForCausalLM", "hidden_size"),
    ("BartForConditionalGeneration", "d_model"), ("T5ForConditionalGeneration", "d_ff"),
    ("SwitchTransformersForConditionalGeneration", "d_ff"), ("OpenAIGPTLMHeadModel", "n_embd"),
])
def test_a_width_that_the_weights_do_not_have_takes_no_memory(stem, name):
    it = next(golden(path) for path in GOLDENS if path.stem == stem)
    with pytest.raises(UserError, match="its configuration gives"), little_memory():
        from_tensors(it.architecture, it.settings | {name: 3 * 2**15}, it.weights)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("hidden_size", 10**12, "hidden_size is 1000000000000, where a number below"),
    ("hidden_size", "64", "hidden_size is '64', where a number"),
    ("hidden_size", [64], "hidden_size is"), ("hidden_size", True, "hidden_size is True"),
    ("hidden_size", -64, "d_model: a number greater than 0 is expected"),
    ("hidden_size", 0, "d_model: a number greater than 0 is expected"),
    ("hidden_size", 2**24, "its configuration gives"),
    ("hidden_size", float("nan"), "hidden_size is nan"),
    ("num_hidden_layers", 10**9, "layers, and at most 10,000 are allowed"),
    ("num_hidden_layers", 9_999, "has 9,999 layers, and its weights have"),
    ("num_attention_heads", 2**24, "its configuration gives"),
    ("vocab_size", 2**24, "its configuration gives"),
    ("intermediate_size", 2**24, "its configuration gives"),
    ("max_position_embeddings", 10**30, "max_position_embeddings is"),
    ("rope_theta", float("inf"), None), ("rms_norm_eps", "x", "rms_norm_eps is 'x'"),
    ("rope_parameters", [1], "rope_parameters is"), ("hidden_act", ["silu"], "hidden_act is"),
    ("tie_word_embeddings", 3, "tie_word_embeddings is 3, where true or false"),
    ("architectures", "LlamaForCausalLM", "does not name the model's class"),
    ("architectures", [], "does not name the model's class"),
    ("architectures", [["x"]], "does not name the model's class"),
    ("architectures", ["x" * 10**6], "not a class that can be converted"),
])
def test_a_setting_of_the_wrong_kind_is_named(llama, name, value, message):
    content = json.loads((llama / "config.json").read_text())
    content.pop("rope_parameters", None)
    (llama / "config.json").write_text(json.dumps(content | {name: value}))
    with little_memory():
        if message is None:
            with pytest.raises(UserError, match=name):
                from_hf(llama)
        else:
            with pytest.raises(UserError, match=message) as error:
                from_hf(llama)
            assert len(str(error.value)) < 3000
            assert str(error.value).startswith(str(llama))


def test_a_config_json_that_is_hostile_as_a_file(llama):
    path = llama / "config.json"
    for content, message in (("[" * 10**6, "nested too deeply"), ("[]", "is not a JSON object"),
                             ('{"a": ' + "9" * 5000 + "}", "not readable as JSON"),
                             ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
                              "not readable as JSON")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            from_hf(llama)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe or device"):
        from_hf(llama)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is a folder"):
        from_hf(llama)


def test_code_of_a_folder_is_not_run(llama):
    (llama / "modeling_x.py").write_text("raise SystemExit(open('ran', 'w'))")
    content = json.loads((llama / "config.json").read_text())
    content["auto_map"] = {"AutoModel": "modeling_x.Model", "AutoConfig": "modeling_x.Config"}
    (llama / "config.json").write_text(json.dumps(content))
    from_hf(llama)
    assert not Path("ran").exists()


@pytest.mark.parametrize(("part", "message"), [
    ("../x.safetensors", "not in the folder"), ("/etc/passwd", "not in the folder"),
    ("none.safetensors", "not in the folder"), ("", "not in the folder"),
    ("a\0.safetensors", "not in the folder"), ("..", "not in the folder"),
    ("config.json", "not a safetensors file"), ("pipe.safetensors", "not in the folder"),
    ("folder.safetensors", "not in the folder"), (3, "no valid weight_map"),
    (None, "no valid weight_map"), (["a"], "no valid weight_map"),
])
def test_an_index_with_an_invalid_part_is_refused(llama, part, message):
    (llama / "model.safetensors").rename(llama.parent / "x.safetensors")
    os.mkfifo(llama / "pipe.safetensors")
    (llama / "folder.safetensors").mkdir()
    index = llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(UserError, match=message):
        from_hf(llama)
    for wrong in ({}, {"weight_map": []}, {"weight_map": {}}, []):
        index.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"no valid weight_map|not a JSON object"):
            from_hf(llama)


def test_a_tensor_in_two_parts_is_refused(llama):
    for name in ("a.safetensors", "b.safetensors"):
        (llama / name).write_bytes((llama / "model.safetensors").read_bytes())
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(UserError, match="which another part contains too"):
        from_hf(llama)


def test_weights_that_are_not_a_file_are_refused(llama):
    for make, message in ((os.mkfifo, "is a pipe or device"), (os.mkdir, "is a folder")):
        (llama / "model.safetensors").rename(llama / "kept")
        make(llama / "model.safetensors")
        with pytest.raises(UserError, match=message):
            from_hf(llama)
        (llama / "model.safetensors").rename(llama / f"{make.__name__}")
        (llama / "kept").rename(llama / "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "x.pkl"])
def test_pickles_are_refused_as_files_and_in_folders(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=r"pickled .*save_pretrained"):
            from_hf(path)
