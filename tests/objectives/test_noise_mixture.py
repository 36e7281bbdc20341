"""UL2's mixture: the shares of its denoisers, what each takes out, and the way back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare

from scaling.config.spans import UL2, Denoiser, mixture_lengths
from scaling.errors import UserError
from scaling.objectives.noise.keys import sequence_keys
from scaling.objectives.noise.mixture import choose_denoisers, mix_denoisers
from scaling.objectives.noise.spans import restore

pytestmark = pytest.mark.quick

PAD, EOS, LENGTH = 0, 1, 128
MODES = {"R": 2, "S": 3, "X": 4}
SENTINELS = np.arange(1000, 1100)


def keys(rows: int):
    return sequence_keys(5, np.arange(rows), np.zeros(rows, np.int64), "mixture")


def texts(rows: int):
    return np.random.default_rng(0).integers(5, 1000, (rows, LENGTH)).astype(np.uint16)


def mixed(rows: int, denoisers=UL2):
    return mix_denoisers(keys(rows), texts(rows), SENTINELS, MODES, EOS, PAD, denoisers)


def test_the_table():
    table = Counter((d.mode, d.mean_span, d.rate) for d in UL2)
    assert table == Counter([("R", 3, 0.15), ("R", 8, 0.15), ("S", None, 0.25), ("X", 3, 0.5),
                             ("X", 8, 0.5), ("X", 64, 0.15), ("X", 64, 0.5)])


def test_shares():
    denoisers = [Denoiser(mode="R", mean_span=3, rate=0.15, share=3), Denoiser(mode="S", rate=0.25),
                 Denoiser(mode="X", mean_span=8, rate=0.5, share=0.5)]
    counts = np.bincount(choose_denoisers(keys(20_000), denoisers))
    expected = 20_000 * np.array([3, 1, 0.5]) / 4.5
    assert chisquare(counts, expected).pvalue > 1e-3
    assert chisquare(np.bincount(choose_denoisers(keys(20_000)))).pvalue > 1e-3


def test_widths_are_those_of_the_longest_rows():
    pair = mixed(4000)
    widths = pair.source.shape[1], pair.target.shape[1]
    assert widths == mixture_lengths(LENGTH)
    assert (pair.source_valid.sum(axis=1).max(), pair.target_valid.sum(axis=1).max()) == widths
    for ids, valid in ((pair.source, pair.source_valid), (pair.target, pair.target_valid)):
        length = valid.sum(axis=1)
        assert (valid == (np.arange(ids.shape[1]) < length[:, None])).all()
        assert (ids[np.arange(len(ids)), length - 1] == EOS).all()


def test_the_mode_is_the_first_token_and_the_rest_restores_the_text():
    pair = mixed(300)
    modes = [MODES[UL2[number].mode] for number in choose_denoisers(keys(300))]
    assert pair.source[:, 0].tolist() == modes
    np.testing.assert_array_equal(
        restore(pair.source[:, 1:], pair.target, SENTINELS, EOS, PAD), texts(300)
    )


@pytest.mark.parametrize("number", range(len(UL2)))
def test_each_denoiser_takes_out_what_it_says(number):
    denoiser = UL2[number]
    pair = mixed(3000, [denoiser])
    spans = np.isin(pair.target, SENTINELS).sum(axis=1)
    noise = pair.target_valid.sum(axis=1) - spans - 1
    if denoiser.mode == "S":
        assert (spans == 1).all()
        # The source is the text's beginning, its one sentinel and the end.
        kept = LENGTH - noise
        before = np.arange(LENGTH) < kept[:, None]
        assert (pair.source[:, 1 : LENGTH + 1][before] == texts(3000)[before]).all()
        assert set(noise) == set(range(1, 2 * LENGTH // 4))
        assert abs(noise.mean() / LENGTH - denoiser.rate) < 4 * 0.5 / np.sqrt(12 * 3000)
    else:
        assert (noise == round(LENGTH * denoiser.rate)).all()
        assert (spans == max(1, round(LENGTH * denoiser.rate / denoiser.mean_span))).all()


def test_a_row_is_the_same_in_any_batch():
    few = [17, 3, 250]
    whole = mixed(300)
    some = mix_denoisers(keys(300)[few], texts(300)[few], SENTINELS, MODES, EOS, PAD)
    for of_whole, of_some in zip(whole, some, strict=True):
        np.testing.assert_array_equal(of_whole[few], of_some)


def test_too_few_sentinels():
    with pytest.raises(UserError, match="needs 21"):
        mix_denoisers(keys(300), texts(300), SENTINELS[:20], MODES, EOS, PAD)


@pytest.mark.parametrize(("given", "said"), [
    ({"mode": "R", "rate": 0.15}, "mean_span"),
    ({"mode": "X", "rate": 0.15, "mean_span": 0.5}, "mean_span"),
    ({"mode": "S", "rate": 0.25, "mean_span": 3}, "mean_span"),
    ({"mode": "S", "rate": 0.75}, "rate"),
    ({"mode": "R", "rate": 0.0, "mean_span": 3}, "rate"),
])
def test_denoisers_that_cannot_be(given, said):
    with pytest.raises(ValidationError, match=said):
        Denoiser(**given)
