"""The text of seqio tasks and mixtures, with stand-ins for seqio, which these tests do not need.
tests/prepare has the tests with seqio itself."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from scaling.data.seqio import source
from scaling.data.sources.base import Part
from scaling.errors import UserError

Feature = SimpleNamespace


class Placeholder:
    """Where seqio caches the examples of a task."""


def tokenize(dataset):
    return dataset


def tokenize_and_append_eos(dataset, copy_pretokenized=True):
    return dataset


def lower(dataset):
    return dataset


@pytest.fixture
def registry(monkeypatch):
    """The providers by name, of a seqio without any of its own."""
    found: dict[str, SimpleNamespace] = {}
    seqio = SimpleNamespace(
        preprocessors=SimpleNamespace(
            tokenize=tokenize, tokenize_and_append_eos=tokenize_and_append_eos),
        CacheDatasetPlaceholder=Placeholder,
        MixtureRegistry=SimpleNamespace(
            names=lambda: {name for name, each in found.items() if hasattr(each, "tasks")},
            get=found.__getitem__),
        TaskRegistry=SimpleNamespace(
            names=lambda: {name for name, each in found.items() if not hasattr(each, "tasks")},
            get=found.__getitem__))
    monkeypatch.setattr(source, "_seqio", lambda name: seqio)
    source._rates.cache_clear()
    yield found
    source._rates.cache_clear()


def mixture(registry, **rates):
    tasks = [SimpleNamespace(name=name) for name in rates]
    registry["both"] = SimpleNamespace(
        name="both", tasks=tasks, get_rate=lambda task: rates[task.name])


def test_the_rates_of_a_mixture_are_shares(registry):
    mixture(registry, small=1.0, large=3.0, none=0.0)
    assert source._rates("seqio:both") == {"small": 0.25, "large": 0.75}


def test_documents_are_interleaved_by_bytes_until_a_task_is_exhausted(registry, monkeypatch):
    """Not by documents: those of the one are four times as long; é has two bytes."""
    mixture(registry, short=1.0, long=1.0)
    texts = {"short": ["é"] * 40, "long": ["x" * 8] * 5}
    monkeypatch.setattr(source, "_all_texts", lambda name, task, decode: iter(texts[task]))
    found = list(source._mixture_texts("seqio:both", Part(Path("x")), str))
    assert found[:6] == ["é", "x" * 8, "é", "é", "é", "é"]
    sizes = {mark: sum(len(text.encode()) for text in found if text[0] == mark) for mark in "éx"}
    assert sizes["x"] == 40  # the long ones are used up
    assert 40 <= sizes["é"] <= 42
    mixture(registry, short=1.0, long=4.0)
    source._rates.cache_clear()
    texts["short"] *= 100
    texts["long"] *= 100
    found = list(islice(source._mixture_texts("seqio:both", Part(Path("x")), str), 200))
    sizes = {mark: sum(len(text.encode()) for text in found if text[0] == mark) for mark in "éx"}
    assert sizes["x"] / sizes["é"] == pytest.approx(4, rel=0.05)


def test_the_stages_of_a_task_before_it_tokenizes_are_kept(registry):
    rekey = partial(lower)
    for end in (tokenize, partial(tokenize_and_append_eos, copy_pretokenized=False)):
        task = SimpleNamespace(name="t", preprocessors=[rekey, Placeholder(), lower, end, lower])
        assert source._stages_before_tokens("seqio:t", task) == [rekey, lower]
    task = SimpleNamespace(name="t", preprocessors=[rekey, lower])
    with pytest.raises(UserError, match=r"t never calls seqio\.preprocessors\.tokenize"):
        source._stages_before_tokens("seqio:t", task)


def test_files_are_parts_and_a_mixture_is_one(registry):
    files = (Path("a"), Path("b"), Path("c"))
    assert source._part_per_shard(files, 1) == [
        Part(Path("a"), 0, 1), Part(Path("b"), 1, 2), Part(Path("c"), 2, 3)]
    assert source._one_part(files, 1) == [Part(Path("a"))]


def test_the_documents_of_a_task_are_those_of_all_its_parts(registry, monkeypatch):
    files = (Path("a"), Path("b"))
    monkeypatch.setattr(source, "_examples", lambda name, task: SimpleNamespace(
        files=files, divide=source._part_per_shard))
    monkeypatch.setattr(source, "_texts", lambda name, task, part, decode: iter(
        [f"{task} {part.path} {i}" for i in range(2)]))
    assert list(source._all_texts("seqio:t", "t", str)) == ["t a 0", "t a 1", "t b 0", "t b 1"]


@pytest.mark.parametrize(("name", "words"), [
    ("seqio:", "not the name of a seqio task"), ("seqio:a@", "not the name of a seqio task"),
    ("seqio:bth", r"did you mean seqio:both\?"), ("seqio:qqqq", r"one of scaling\.data\.seqio"),
])
def test_an_unknown_name_is_one_message(registry, name, words):
    mixture(registry, a=1.0)
    with pytest.raises(UserError, match=words):
        source.find_seqio(name)


def test_modules_that_register_tasks_are_imported(registry, monkeypatch, tmp_path):
    mixture(registry, a=1.0)
    (tmp_path / "more_tasks.py").write_text("raise ImportError('seen')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SCALING_SEQIO_MODULES", " json , more_tasks")
    with pytest.raises(UserError, match=r"'more_tasks', which cannot be imported \(seen\)"):
        source._provider("seqio:both", "both")


def test_the_reading_of_a_mixture_has_its_rates(registry, monkeypatch):
    """They are part of the recipe of a store."""
    mixture(registry, a=1.0, b=3.0)
    monkeypatch.setattr(source, "_examples", lambda name, task: SimpleNamespace(
        files=(Path(f"{task}.txt"),)))
    found = source.find_seqio("seqio:both")
    assert found.reading == "seqio:both, bytes a=0.25 b=0.75"
    assert found.files == (Path("a.txt"), Path("b.txt"))
