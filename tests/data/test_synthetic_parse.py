"""Parsing of synthetic languages."""

import json
import pickle

import numpy as np
import pytest
from pydantic import TypeAdapter

from scaling.data.synthetic import AnyLanguage, Hierarchy, Markov, ZipfBigram, parse_language
from scaling.errors import UserError


def test_options_are_the_fields():
    assert parse_language("synthetic:markov,vocab=256,seed=1,tokens=1e9,heldout=5_000") == Markov(
        vocab_size=256, seed=1, tokens=10**9, heldout_tokens=5000
    )
    assert parse_language("synthetic:zipf-bigram,bigram_share=0.25") == ZipfBigram(
        bigram_share=0.25
    )
    assert parse_language("synthetic:hierarchy") == Hierarchy()


@pytest.mark.parametrize(("source", "message"), [
    ("synthetic:markow", "no synthetic language 'markow'; did you mean markov?"),
    ("synthetic:", "known are markov, zipf-bigram, hierarchy"),
    ("synthetic:markov,vocabs=3", "markov has no option 'vocabs'; did you mean vocab?"),
    ("synthetic:markov,rules=3", "markov has no option 'rules'; known are vocab, seed, tokens"),
    ("synthetic:hierarchy,vocab_size=3", "did you mean vocab?"),
    ("synthetic:markov,vocab", "vocab has no value; write vocab=VALUE"),
    ("synthetic:markov,vocab=", "vocab has no value"),
    ("synthetic:markov,seed=1,seed=2", "seed is given twice"),
    ("synthetic:markov,vocab=many", "vocab_size: .*valid integer.*, not 'many'"),
    ("synthetic:markov,vocab=1", "vocab_size: .*greater than or equal to 2 is expected, not 1"),
    ("synthetic:markov,vocab=2.5", "vocab_size: .*, not 2.5"),
    ("synthetic:markov,tokens=inf", "tokens: .*, not inf"),
    ("synthetic:markov,smoothing=0", "smoothing: .*greater than 0"),
    ("synthetic:markov,vocab=4096", "vocab_size: 4096.2 contexts with 8 successors"),
    ("synthetic:markov,kind=hierarchy", "no option 'kind'"),
    ("markov", "write synthetic:KIND,OPTION=VALUE"),
])
def test_invalid_sources_are_refused(source, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_language(source)
    assert str(refused.value).startswith(source)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("language", [
    Markov(seed=3, order=1), ZipfBigram(vocab_size=100), Hierarchy(vocab_size=64, rules=2),
], ids=repr)
def test_a_language_is_its_configuration(language):
    written = json.loads(language.model_dump_json())
    read = TypeAdapter(AnyLanguage).validate_python(written)
    assert type(read) is type(language)
    assert read == language
    index = np.arange(3)
    copy = pickle.loads(pickle.dumps(language))
    np.testing.assert_array_equal(copy.rows("test", index, 20), read.rows("test", index, 20))


def test_spelling():
    assert Markov().spell(np.array([17, 3, 0])) == "w17 w3 w0"
