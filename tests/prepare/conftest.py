"""Datasets and tasks created locally: these tests use no network."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from functools import cache

import numpy as np
import pytest

from tests.prepare.cases import EOS, PAD, SENTINELS

MISSING = [name for name in ("tensorflow_datasets", "seqio") if not importlib.util.find_spec(name)]

TEXTS = tuple(f"Document {number}: {'été, ' * (number % 7)}the end.\n" for number in range(60))
"""Texts of the documents of the dataset `toy`; one further document is blank."""
TRAIN = 48
"""Number of them in its train split; the others are in validation."""


def pytest_collection_modifyitems(items):
    if MISSING:
        reason = f"{' and '.join(MISSING)} missing: make test-prepare has an environment with them"
        for item in items:
            if "prepare" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def builder():
    """The dataset `toy` with several fields, registered with TFDS."""
    import tensorflow_datasets as tfds

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        url_infos = None  # TFDS looks for a file of checksums beside the class

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                "number": tfds.features.Scalar(np.int64),
                "text": tfds.features.Text(),
                "translation": tfds.features.Translation(["en", "fr"]),
            }))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(TEXTS[:TRAIN], 0),
                    "validation": self._generate_examples((*TEXTS[TRAIN:], " \n"), TRAIN)}

        def _generate_examples(self, texts, first):
            for number, text in enumerate(texts, first):
                yield number, {"number": number, "text": text,
                               "translation": {"en": f"{number} cars", "fr": f"{number} autos"}}

    return Toy


@pytest.fixture(scope="session")
def built(builder, tmp_path_factory):
    """Builds `toy` in a format, in several files, once per format; returns the folder."""
    import tensorflow_datasets as tfds

    @cache
    def build(file_format: str) -> str:
        root = tmp_path_factory.mktemp(file_format)
        builder(data_dir=root, file_format=file_format).download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=3))
        return str(root)

    return build


@pytest.fixture
def data_folder(built, monkeypatch):
    """Sets TFDS's data folder to the one with `toy` in a given format."""

    def choose(file_format: str) -> None:
        monkeypatch.setenv("TFDS_DATA_DIR", built(file_format))

    return choose


@pytest.fixture
def jsonl(tmp_path):
    """Writes documents to a file and returns its source string."""

    def write(name: str, texts) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return f"jsonl:{path}#text"

    return write


@pytest.fixture(scope="session")
def tasks():
    """The seqio registry of this package."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from scaling.data.seqio import tasks

    return tasks


@pytest.fixture(scope="session")
def texts():
    """Documents of one to sixty words."""
    draw = random.Random(0)
    words = ["red", "car", "love", "this", "été", "house", "a", "new"]
    return [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(40)]


@pytest.fixture(scope="session")
def model(texts, tmp_path_factory):
    """A SentencePiece model of these texts."""
    import sentencepiece

    path = tmp_path_factory.mktemp("model") / "toy.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")), vocab_size=26,
        pad_id=PAD, eos_id=EOS, unk_id=2, bos_id=-1, minloglevel=2)
    return path


@pytest.fixture(scope="session")
def vocabularies(tasks, model):
    """seqio's bytes, and a SentencePiece model trained here, both with T5's sentinels."""
    seqio = tasks.seqio
    return {"bytes": seqio.ByteVocabulary(SENTINELS),
            "sentencepiece": seqio.SentencePieceVocabulary(str(model), SENTINELS)}
