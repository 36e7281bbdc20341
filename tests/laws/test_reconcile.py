"""Kaplan against Chinchilla: counts of parameters, the published exponents, and refits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scaling.errors import UserError
from scaling.laws import Bootstrap, Law, allocate, published
from scaling.laws.conventions.reconcile import (
    COUNTING_CONVENTIONS,
    fit_under_conventions,
    frontier,
    kaplan_power_law,
    reconcile,
)
from scaling.laws.conventions.recount import (
    Relation,
    monotone_interpolation,
    published_relation,
    recount,
    relation_between,
)
from scaling.laws.published import counting as published_counting

pytestmark = pytest.mark.quick

OMEGA = 47491


def _law(name: str) -> Law:
    law = published()[name].law
    assert law is not None
    return law


def _exact(law: Law, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C at which N without embeddings is the best, and d log N / d log C there, from the
    condition alpha A N_T^(-alpha-1) dN_T/dN = beta B D^-beta / N solved by hand."""
    _, a, b, alpha, beta = law.point[0]
    total, slope = n + OMEGA * np.cbrt(n), 1 + OMEGA / 3 * n ** (-2 / 3)
    d = (beta * b * total ** (alpha + 1) / (alpha * a * n * slope)) ** (1 / beta)
    c = 6 * n * d
    # Pearce and Song 2024, the local exponent 1/g.
    x = n ** (2 / 3)
    g = (1 - (x + OMEGA / 9) / (x + OMEGA / 3) / beta
         + (alpha + 1) / beta * (x + OMEGA / 3) / (x + OMEGA))
    return c, 1 / g


@pytest.mark.parametrize(("name", "exponent"), [("besiroglu2024", 0.7805),
                                                ("hoffmann2022-3", 0.7388)])
def test_kaplans_method_finds_kaplans_exponent(name: str, exponent: float) -> None:
    assert kaplan_power_law(_law(name)).exponent == pytest.approx(exponent, abs=5e-5)


@pytest.mark.parametrize("name", ["besiroglu2024", "hoffmann2022-3"])
def test_the_frontier_without_embeddings_is_exact(name: str) -> None:
    law = _law(name)
    n = np.array([1e3, 1e5, 1e7, 1.5e9, 1e12])
    c, local = _exact(law, n)
    found = frontier(law, "non-embedding", list(c))
    np.testing.assert_allclose([row.n for row in found.allocations], n, rtol=1e-6)
    np.testing.assert_allclose([row.a for row in found.allocations], local, rtol=1e-4)
    for row, budget in zip(found.allocations, c, strict=True):
        assert 6 * row.n * row.d == pytest.approx(budget)
        assert row.counting == "non-embedding"
    # Kaplan's range is in between: neither Chinchilla's exponent nor that of embeddings alone.
    assert local[-1] == pytest.approx(law.exponents["a"], abs=1e-3)
    _, _, _, alpha, beta = law.point[0]
    assert _exact(law, np.array([1e-3]))[1] == pytest.approx(beta / (alpha / 3 + beta), rel=1e-3)


def test_allocations_differ_between_the_counts() -> None:
    law = _law("besiroglu2024")
    found = reconcile(law, [1e17, 1e19, 1e21])
    assert found.total.power.exponent == pytest.approx(law.exponents["a"])
    assert found.total.power.at(1e19) == pytest.approx(allocate(law, 1e19).n)
    assert found.non_embedding.power.exponent > found.total.power.exponent + 0.02
    for with_, without in zip(found.total.allocations, found.non_embedding.allocations,
                              strict=True):
        assert without.n < with_.n  # embeddings are not among them,
        assert without.d > with_.d  # nor is their compute, which leaves more for tokens
        assert without.loss < with_.loss
    content = found.to_json()
    assert content["kaplans_study"]["exponent"] == found.kaplan.exponent
    assert "47491" in content["relation"]


def test_counts_are_inverse_to_each_other() -> None:
    n = np.geomspace(1, 1e13, 60)
    for relation in (published_relation(), published_relation(1e6)):
        np.testing.assert_allclose(relation.non_embedding(relation.total(n)), n, rtol=1e-12)
    assert published_relation().total(np.array([1e6]))[0] == pytest.approx(1e6 + 4_749_100)
    bare = np.array([1e5, 1e6, 1e8])
    own = relation_between(bare + 1000 * np.sqrt(bare), bare, "models.csv")
    np.testing.assert_allclose(own.non_embedding(own.total(n[10:])), n[10:], rtol=1e-9)
    np.testing.assert_allclose(own.total(bare), bare + 1000 * np.sqrt(bare), rtol=1e-12)


def test_a_law_recounted_is_the_same_law() -> None:
    """The same models have the same losses, and an identical count changes nothing."""
    law = _law("besiroglu2024")
    bare = recount(law, "non-embedding")
    n, d = np.array([1e5, 1e9]), np.array([1e10, 1e11])
    total = n + OMEGA * np.cbrt(n)
    np.testing.assert_allclose(bare.loss({"n": n, "d": d}), law.loss({"n": total, "d": d}),
                               rtol=1e-12)
    assert recount(law, "total") is law
    same = Relation(lambda n: n, lambda n: n, "no embeddings")
    assert allocate(recount(law, "non-embedding", same), 1e20).n == pytest.approx(
        allocate(law, 1e20).n, rel=1e-7)
    # Gadre's law has C in it, which is 6 N D of its own N.
    gadre = _law("gadre2024-c4")
    at = {"n": n, "d": d, "c": 6 * n * d}
    own = {"n": total, "d": d, "c": 6 * total * d}
    np.testing.assert_allclose(recount(gadre, "non-embedding").loss(at), gadre.loss(own))


def test_what_is_known_of_a_law_is_recounted_with_it() -> None:
    """Ranges in the new N and its C; closed forms and held-out errors of the old N are lost."""
    law = _law("besiroglu2024")
    ranges = {"n": (1e6, 1e9), "d": (1e9, 1e11), "c": (6e15, 6e20)}
    law = replace(law, convention={**law.convention, "range": ranges, "c": "flops_counted"},
                  exponents={"a": 0.51}, heldout={"large": {"n": 1e9}}, n_runs=9)
    double = Relation(lambda n: 2 * n, lambda n: n / 2, "every model has as many embeddings")
    bare = recount(law, "non-embedding", double)
    assert bare.convention["range"] == {
        "n": (5e5, 5e8), "d": (1e9, 1e11), "c": (3e15, 3e20)}
    assert law.convention["range"] == ranges
    assert (bare.convention["n"], bare.convention["c"]) == ("non-embedding", "6 N D")
    assert bare.convention["relation"] == "every model has as many embeddings"
    assert (bare.exponents, bare.heldout) == ({}, {})
    assert bare.warnings == law.warnings
    assert bare.params == law.params
    assert bare.form.exponents == law.form.exponents
    assert bare.form.scaling_params == law.form.scaling_params
    again = recount(bare, "total", double)
    assert again.convention["range"] == ranges
    at = {"n": np.array([1e7]), "d": np.array([1e10])}
    np.testing.assert_allclose(again.loss(at), law.loss(at))
    # Only the paper's relation, of its own models, deserves a warning, and only of a fitted law.
    assert len(recount(law, "non-embedding").warnings) == len(law.warnings) + 1
    for relation, runs in ((published_relation(3e4), 9), (None, None)):
        assert recount(replace(law, n_runs=runs), "non-embedding", relation
                       ).warnings == law.warnings


def test_kaplans_study_by_brute_force() -> None:
    """20 sizes on 1000 token counts, each budget's nearest run of every size, one at a time."""
    law = _law("hoffmann2022-3")
    double = Relation(lambda n: 2 * n, lambda n: n / 2, "every model has as many embeddings")
    study = published_counting()["study"]
    sizes, tokens, budgets = (np.logspace(*study[name]) for name in ("sizes", "tokens", "budgets"))
    assert (len(sizes), len(tokens), len(budgets)) == (20, 1000, 100)
    best = []
    for c in budgets:
        d = np.array([tokens[np.argmin(np.abs(tokens - c / (6 * n)))] for n in sizes])
        best.append(sizes[np.argmin(law.loss({"n": 2 * sizes, "d": d}))])
    slope, level = np.polyfit(np.log(budgets), np.log(best), 1)
    found = kaplan_power_law(law, double)
    assert found.exponent == pytest.approx(slope, rel=1e-9)
    assert found.coefficient == pytest.approx(np.exp(level), rel=1e-6)
    assert reconcile(law, [1e18, 1e20], double).kaplan == found


def test_intervals_are_recounted() -> None:
    law = _law("besiroglu2024")
    samples = law.point * np.exp(0.02 * np.random.default_rng(0).standard_normal((50, 5)))
    law = replace(law, bootstrap=Bootstrap(50, 50, 0, samples, np.zeros(5)), n_runs=100)
    bare = allocate(recount(law, "non-embedding"), 1e19)
    assert bare.a_interval[0] < bare.a < bare.a_interval[1]
    assert any("vocabulary of 32,000" in warning for warning in bare.warnings)
    one = kaplan_power_law(replace(law, bootstrap=None, params=dict(
        zip(law.form.parameters, samples[0], strict=True))))
    study = kaplan_power_law(law)
    assert study.interval[0] < study.exponent < study.interval[1]
    spread = study.interval[1] - study.interval[0]
    assert abs(one.exponent - study.exponent) < 3 * spread


def test_invalid_counts_are_refused() -> None:
    law = _law("besiroglu2024")
    foreign = replace(law, convention={**law.convention, "n": "column Model Size"})
    with pytest.raises(UserError, match="fitting it again with counting="):
        recount(foreign, "total")
    with pytest.raises(UserError, match="not a function of N"):
        recount(_law("kaplan2020-c"), "total")
    with pytest.raises(UserError, match="omega -1"):
        published_relation(-1)
    with pytest.raises(UserError, match="at least two are needed"):
        relation_between(np.array([1e6]), np.array([1e5]), "models.csv")
    with pytest.raises(UserError, match="a law of total parameters is expected"):
        kaplan_power_law(_law("kaplan2020-nd"))
    with pytest.raises(UserError, match="frontier"):
        frontier(law, "total", [1e20])


def test_a_curve_is_a_power_law_beyond_its_points() -> None:
    x = np.geomspace(1e3, 1e6, 7)
    line = monotone_interpolation(x, 5 * x**0.8, "models", "count")
    far = np.array([1.0, 1e12])
    np.testing.assert_allclose(line(far), 5 * far**0.8, rtol=1e-9)


@pytest.fixture
def counted() -> pd.DataFrame:
    """Runs of models with embeddings, whose losses follow Besiroglu's law of total N."""
    n = np.repeat(np.geomspace(1e5, 1e9, 6), 6)
    total = n + OMEGA * np.cbrt(n)
    d = np.tile(np.geomspace(1e9, 1e12, 6), 6)
    law = _law("besiroglu2024")
    return pd.DataFrame({
        "params_total": total, "params_non_embedding": n, "tokens": d, "flops_6nd": 6 * total * d,
        "flops_counted": 6 * (total + 3e5 * np.cbrt(n)) * d,
        "loss": law.loss({"n": total, "d": d}),
    })


def test_refits_under_every_count(counted: pd.DataFrame) -> None:
    found = fit_under_conventions(counted, "runs", [1e18, 1e20], resamples=0)
    assert [entry.convention.name for entry in found] == [
        convention.name for convention in COUNTING_CONVENTIONS]
    rows = {entry.convention.name: entry for entry in found}
    plain = rows["N total, C 6 N D"]
    assert plain.allocations[0].n == pytest.approx(
        allocate(_law("besiroglu2024"), 1e18).n, rel=1e-3)
    assert plain.law.params["alpha"] == pytest.approx(0.3478, rel=1e-3)
    # Without embeddings the same runs give another law, with a steeper N*.
    bare = rows["N non-embedding, C 6 N D"]
    assert bare.law.exponents["a"] > plain.law.exponents["a"] + 0.02
    # More FLOPs per token make the models of a budget smaller, small ones most, so N* grows faster.
    more = rows["N total, C flops_counted"]
    for counted_c, six_nd in zip(more.allocations, plain.allocations, strict=True):
        assert counted_c.n * counted_c.d < six_nd.n * six_nd.d
        bare = published_relation().non_embedding(np.array([counted_c.n]))[0]
        per_token = 6 * (counted_c.n + 3e5 * np.cbrt(bare))
        assert per_token * counted_c.d == pytest.approx(counted_c.c, rel=0.02)
    assert more.allocations[0].a > plain.allocations[0].a


def test_refits_of_a_table_that_counts_one_way(counted: pd.DataFrame) -> None:
    found = fit_under_conventions(counted[["params_total", "tokens", "loss"]], "runs", [1e20],
                                  resamples=0)
    assert [entry.convention.name for entry in found] == ["N total, C 6 N D"]
    assert found[0].to_json()["params"]["beta"] == pytest.approx(0.3658, rel=1e-3)
    renamed = counted.rename(columns={"tokens": "D", "loss": "L"}).assign(tokens=1e9, loss=3.0)
    again = fit_under_conventions(renamed[::5], "runs", [1e20], resamples=8, seed=5, d="D",
                                  loss="L")
    assert again[0].law.params["beta"] == pytest.approx(0.3658, rel=1e-3)
    assert again[0].law.bootstrap.resamples == 8
    assert again[0].law.bootstrap.seed == 5
    with pytest.raises(UserError, match="none of the columns params_non_embedding, params_total"):
        fit_under_conventions(counted[["tokens", "loss"]], "runs", [1e20], resamples=0)
