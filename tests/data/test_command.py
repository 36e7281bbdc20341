"""`scaling data`: what it prints, and that a mistake ends with status 2 and one message."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

from scaling.cli import data
from scaling.data import sources
from scaling.data.store import TokenStore
from scaling.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a subcommand in a temporary folder; returns its standard output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"line {i} \x1b[2J"}) + "\n" for i in range(100))
    )
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(data.app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def test_prepare_and_show(run, tmp_path):
    prepare = ("prepare", "jsonl:a.jsonl#text", "--validation-fraction", "0.2")
    output = run(*prepare)
    assert output.startswith("stores/a-byte: prepared\n")
    assert run(*prepare).startswith("stores/a-byte: already prepared\n")
    assert run(*prepare, "--tokenizer", "bpe", "--vocab-size", "262").startswith(
        "stores/a-bpe-262: prepared\n"
    )
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == ["a-bpe-262", "a-byte"]
    shown = json.loads(run("show", "stores/a-byte", "--json", "--samples", "1", "--verify"))
    manifest = json.loads((tmp_path / "stores/a-byte/manifest.json").read_text())
    assert shown["manifest"] == manifest
    train = manifest["train"]
    assert shown["bytes_per_token"]["train"] == train["bytes"] / train["tokens"]
    # "line N", a space, four characters, and the end of the document: 12 tokens or 13.
    assert shown["document_tokens"]["train"] == {
        "min": 12, "10%": 13, "50%": 13, "90%": 13, "max": 13,
    }
    assert list(shown["samples"].values()) == ["line 2 \x1b[2J"]
    for store in ("stores/a-byte", "stores/a-bpe-262"):
        output = run("show", store)
        manifest = json.loads((tmp_path / store / "manifest.json").read_text())
        assert f"{manifest['train']['tokens']:,}" in output
        assert "\x1b" not in output
        assert "line 2 \\x1b[2J" in output
    assert "line 2" not in run("show", "stores/a-byte", "--samples", "0")


def test_show_prints_the_tokens(run, tmp_path):
    run("prepare", "jsonl:a.jsonl#text", "--test-fraction", "0", "--special", "mask")
    shown = json.loads(run("show", "stores/a-byte", "--json"))
    split = np.fromfile(tmp_path / "stores/a-byte/train-00000.bin", "<u2")
    counts = np.bincount(split)
    shares = counts[counts > 0] / len(split)
    unigrams = shown["unigrams"]["train"]
    assert unigrams["entropy"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert (unigrams["counted"], unigrams["ids"]) == (len(split), len(shares))
    assert list(shown["unigrams"]) == ["train", "validation"]
    # "line N \x1b[2J" has three of its own letters for each document, and one end.
    frequent = {row["token"]: row["share"] * len(split) for row in shown["frequent"]}
    assert frequent["<eos>"] == pytest.approx(shown["manifest"]["train"]["documents"])
    assert frequent["' '"] == pytest.approx(2 * frequent["<eos>"])
    assert "eos 256, mask 257" in run("show", "stores/a-byte").replace("mask 256, eos 257", "")


def test_a_language_is_prepared_and_shown(run):
    source = "synthetic:markov,vocab=32,seed=3,tokens=1e5"
    assert run("prepare", source).startswith("stores/markov-vocab-32-seed-3-tokens-1e5: prepared")
    folder = "stores/markov-vocab-32-seed-3-tokens-1e5"
    output = run("show", folder, "--samples", "1")
    assert "nats per token, exact" in output
    assert "\ntrain row 0\nw" in output
    shown = json.loads(run("show", folder, "--json"))
    # Knowledge of the past can only lower the loss.
    rate = shown["manifest"]["entropy"][0]
    assert 0 < rate < shown["unigrams"]["train"]["entropy"]
    assert shown["bytes_per_token"]["train"] is None


def test_list_shows_which_sources_work(run, monkeypatch):
    listed = {row["source"]: row for row in json.loads(run("list", "--json"))}
    assert list(listed) == [*(known.pattern for known in sources.known_sources()),
                            "synthetic:KIND,OPTION=VALUE,..."]
    assert listed["wheel:chitchat-dataset"]["problem"] is None
    assert listed["stdlib"]["bytes"] > 5e6
    assert "12.7 MB" in run("list")
    monkeypatch.setattr("scaling.data.sources.chitchat.DISTRIBUTION", "chitchat-data-not-there")
    assert "is not installed; install it with: pip install" in run("list")


def test_a_stage_shows_its_own_speed_and_the_time_left(monkeypatch):
    """Of 10 MB, 4 were done by an earlier process; 2 more take 2 s, so 4 are left for 4 s."""
    now, shown = [100.0], []

    class Bar:
        def update(self, done, note):
            shown.append((done, note))

    @contextmanager
    def progress(label, total):
        shown.append((label, total))
        yield Bar()
        shown.append("closed")

    monkeypatch.setattr(data, "monotonic", lambda: now[0])
    monkeypatch.setattr(data, "progress", progress)
    with data._Stages() as stages:
        stages("scanning", 4e6, 10e6)
        stages("scanning", 4e6, 10e6)
        now[0] = 102.0
        stages("scanning", 6e6, 10e6)
        stages("tokenizing", 0.0, 0.0)
        now[0] = 103.0
        stages("tokenizing", 3e6, 2e6)
    assert shown == [("scanning", 10), (6, "1.0 MB/s, 4 s left"), "closed", ("tokenizing", 1),
                     (3, "3.0 MB/s, 0 s left"), "closed"]


def test_samples_are_spread_over_the_documents(run, tmp_path):
    run("prepare", "jsonl:a.jsonl#text", "--validation-fraction", "0.2")
    store = TokenStore.open(tmp_path / "stores/a-byte")
    documents = store.manifest.train.documents
    shown = json.loads(run("show", "stores/a-byte", "--json", "--samples", "4"))["samples"]
    assert [int(number) for number in shown] == [place * documents // 4 for place in range(4)]
    few = json.loads(run("show", "stores/a-byte", "--json", "--samples", "999"))["samples"]
    assert len(few) == documents
    (tmp_path / "long.jsonl").write_text("".join(
        json.dumps({"text": f"{i} " + "é" * 500}) + "\n" for i in range(60)))
    run("prepare", "jsonl:long.jsonl#text", "--validation-fraction", "0.2")
    for text in json.loads(run("show", "stores/long-byte", "--json"))["samples"].values():
        assert len(text) == 300 + len(" ...")
        assert text.endswith("é ...")


@pytest.mark.parametrize("command", ["prepare", "list", "show"])
def test_help_has_an_example(run, command):
    assert f"scaling data {command}" in run(command, "--help")


MISTAKES = {
    "prepare stdlb": "did you mean stdlib?",
    "prepare text:*.md": "no file matches '*.md'",
    "prepare text:latin.txt": "latin.txt: not UTF-8 text",
    "prepare jsonl:a.jsonl": "which field contains the text?",
    "prepare jsonl:bad.jsonl#text": "bad.jsonl:2: has no field 'text'; did you mean 'txt'?",
    "prepare jsonl:a.jsonl#text --tokenizer bpe": "vocab_size is missing",
    "prepare jsonl:a.jsonl#text --tokenizer word": "'byte', 'bpe', 'wordpiece', 'unigram'",
    "prepare jsonl:a.jsonl#text --validation-fraction 2": "validation_fraction: ",
    "prepare jsonl:a.jsonl#text --validation-fraction 0.6 --test-fraction 0.5":
        "validation_fraction 0.6 leaves nothing to train on",
    "prepare jsonl:a.jsonl#text --special cls,maks": "did you mean mask?",
    "prepare jsonl:a.jsonl#text --deduplicate all": "deduplicate: ",
    "prepare jsonl:a.jsonl#text --workers 0": "workers = 0; at least 1 is needed",
    "prepare jsonl:a.jsonl#text --tokenizer nowhere.json": "nowhere.json",
    "prepare synthetic:markov --tokenizer bpe": "takes the tokenizer none",
    "prepare jsonl:a.jsonl#text --out .": "exists and is not a token store",
    "prepare jsonl:a.jsonl#text --out a.jsonl": "exists and is not a token store",
    "show stores/chitchat-byte": "scaling data prepare wheel:chitchat-dataset",
    "show .": "has no manifest",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_message(run, command):
    with pytest.raises(UserError) as error:
        run(*command.split())
    assert MISTAKES[command] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", [*MISTAKES, "prepare jsonl:a.jsonl#text --out a.jsonl/store"])
def test_a_mistake_ends_with_status_2(run, command, monkeypatch, capsys):
    from scaling.cli.main import main

    monkeypatch.setattr("sys.argv", ["scaling", "data", *command.split()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 1
    assert MISTAKES.get(command, "a.jsonl/store: ") in printed.err
    assert printed.out == ""
