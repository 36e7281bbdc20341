"""Allocations of every kind of budget, against closed forms, first-order conditions and limits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from scaling.errors import UserError
from scaling.laws import FORMS, Bootstrap, Law, allocate, fit_law, from_frame, published
from scaling.laws.allocation.allocate import can_allocate
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.allocation.optimise import solve
from scaling.laws.forms.custom import law as own_law

pytestmark = pytest.mark.quick

CHINCHILLA = FORMS["chinchilla"]


@pytest.fixture
def law() -> Law:
    found = published()["besiroglu2024"].law
    assert found is not None
    return found


@pytest.fixture
def sampled(law: Law) -> Law:
    """The law with 300 resamples, all parameters uncertain by three percent."""
    rng = np.random.default_rng(0)
    samples = law.point * np.exp(0.03 * rng.standard_normal((300, 5)))
    return replace(law, bootstrap=Bootstrap(300, 300, 0, samples, np.zeros(10)))


def six_n(n: np.ndarray) -> np.ndarray:
    """6 N as an explicit function, so that the numerical optimum is used, not the closed form."""
    return np.asarray(6 * n)


def loss(law: Law, n: float, d: float) -> float:
    return float(law.loss({"n": np.array([n]), "d": np.array([d])})[0])


@pytest.mark.parametrize("c", [1e12, 1e18, 1e26])
def test_the_search_finds_the_closed_form(sampled: Law, c: float) -> None:
    found = solve(CHINCHILLA, sampled.samples, AllocationBudget(c=c, flops_per_token=six_n))
    _, a, b, alpha, beta = sampled.samples.T
    power = beta / (alpha + beta)
    closed = (alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (c / 6) ** power
    np.testing.assert_allclose(found.n, closed, rtol=1e-7)
    np.testing.assert_allclose(found.a, power, atol=1e-6)
    np.testing.assert_allclose(6 * found.n * found.d, c, rtol=1e-12)


def test_kaplans_law_of_both_against_its_own_optimum() -> None:
    """(N_c/N)^g + D_c/D at D = C/(6N) is least at N^(1+g) = g N_c^g C / (6 D_c)."""
    entry = published()["kaplan2020-nd"]
    g = 0.076 / 0.103
    best = allocate(entry, 1e20)
    assert best.n == pytest.approx((g * 6.4e13**g * 1e20 / (6 * 1.8e13)) ** (1 / (1 + g)), rel=1e-7)
    assert best.a == pytest.approx(1 / (1 + g), rel=1e-6)


def test_a_law_that_rises_has_no_optimum() -> None:
    wrong = np.array([[1.8, 400.0, 2000.0, -0.1, 0.3], [1.8, 400.0, 2000.0, 0.3, 0.3]])
    found = solve(CHINCHILLA, wrong, AllocationBudget(c=1e20, flops_per_token=six_n))
    assert np.isnan(found.n[0])
    assert np.isfinite(found.n[1])


@pytest.mark.parametrize("demand", [1e9, 1e12, 1e15, 1e16])
def test_inference_makes_smaller_models_by_the_first_order_condition(
    law: Law, demand: float
) -> None:
    best = allocate(law, AllocationBudget(c=1e21, inference_tokens=demand))
    plain = allocate(law, 1e21)
    assert best.n < plain.n
    assert 6 * best.n * best.d + 2 * best.n * demand == pytest.approx(1e21)
    assert best.total == pytest.approx(1e21)
    assert best.c == pytest.approx(6 * best.n * best.d)
    # L_N / L_D = (6 D + 2 D_inference) / (6 N), with the law's own derivatives.
    _, a, b, alpha, beta = law.point[0]
    of_n = alpha * a * best.n ** (-alpha - 1)
    of_d = beta * b * best.d ** (-beta - 1)
    assert of_n / of_d == pytest.approx((6 * best.d + 2 * demand) / (6 * best.n), rel=1e-5)


def test_inference_demand_lowers_the_optimal_size(law: Law) -> None:
    plain = allocate(law, 1e21)
    budgets = [AllocationBudget(c=1e21, inference_tokens=tokens, flops_per_token=six_n)
               for tokens in (0.0, 1.0, 1e10, 1e12, 1e14)]
    sizes = [allocate(law, budget).n for budget in budgets]
    assert sizes[0] == pytest.approx(plain.n, rel=1e-7)
    assert sizes[1] == pytest.approx(plain.n, rel=1e-6)
    assert all(more < less for less, more in itertools.pairwise(sizes[1:]))


@pytest.mark.parametrize("demand", [0.0, 3e12])
def test_the_cheapest_way_to_a_loss_is_the_best_use_of_its_cost(law: Law, demand: float) -> None:
    cheap = allocate(law, AllocationBudget(loss=2.2, inference_tokens=demand))
    assert loss(law, cheap.n, cheap.d) == pytest.approx(2.2, rel=1e-9)
    best = allocate(law, AllocationBudget(c=cheap.total, inference_tokens=demand))
    assert best.loss == pytest.approx(2.2, rel=1e-9)
    assert best.n == pytest.approx(cheap.n, rel=1e-5)
    # No other size reaches the loss for less.
    e, a, b, alpha, beta = law.point[0]
    n = cheap.n * np.geomspace(0.5, 2, 41)
    d = (b / (2.2 - e - a * n**-alpha)) ** (1 / beta)
    assert (6 * n * d + 2 * n * demand >= cheap.total * (1 - 1e-9)).all()


@pytest.mark.parametrize("middle", [0.6, 0.8, 1.25, 1.7])
def test_the_lowest_of_two_valleys_is_the_optimum(law: Law, middle: float) -> None:
    """Sizes about one that is costly to train have a valley on either side of them."""
    best = allocate(law, 1e21).n * middle

    def dear(n: np.ndarray) -> np.ndarray:
        return np.asarray(6 * n * (1 + 0.8 * np.exp(-2 * np.log(n / best) ** 2)))

    n = best * np.geomspace(0.05, 20, 20_001)
    losses = law.loss({"n": n, "d": 1e21 / dear(n)})
    valleys = (losses[1:-1] < losses[:-2]) & (losses[1:-1] < losses[2:])
    assert valleys.sum() == 2
    assert (np.diff(dear(n)) > 0).all()
    found = allocate(law, AllocationBudget(c=1e21, flops_per_token=dear))
    assert found.n == pytest.approx(n[losses.argmin()], rel=2e-3)
    assert (found.n > best) == (middle < 1)
    # D log N / d log C, by the optima at budgets a little above and below.
    low, high = (allocate(law, AllocationBudget(c=1e21 * f, flops_per_token=dear)).n
                 for f in (0.98, 1.02))
    assert found.a == pytest.approx(np.log(high / low) / np.log(1.02 / 0.98), rel=0.05)


def test_a_loss_just_above_the_floor_takes_what_the_power_law_says(law: Law) -> None:
    """L - E falls as C^-gamma without end, though nobody will ever have that many FLOPs."""
    best = allocate(law, 1e21)
    gamma = 0.3478 * 0.3658 / (0.3478 + 0.3658)
    for excess in (1e-2, 3e-3):
        needed = 1e21 * ((best.loss - 1.8172) / excess) ** (1 / gamma)
        assert 1e30 < needed < 1e34
        found = allocate(law, AllocationBudget(loss=1.8172 + excess))
        assert found.total == pytest.approx(needed, rel=1e-5)


def test_a_loss_below_the_floor_is_out_of_reach(sampled: Law) -> None:
    best = allocate(sampled, AllocationBudget(loss=1.8))
    assert (best.n, best.d, best.total) == (None, None, None)
    assert any("out of reach" in warning for warning in best.warnings)
    some = allocate(sampled, AllocationBudget(loss=1.85))  # below the floor of some resamples
    assert any("never reach a loss of 1.85" in warning for warning in some.warnings)


def test_a_fixed_size_at_the_optimum_has_no_excess(sampled: Law) -> None:
    plain = allocate(sampled, 1e21)
    same = allocate(sampled, AllocationBudget(c=1e21, n=plain.n))
    assert same.excess == pytest.approx(0, abs=1e-9)
    assert same.waste == pytest.approx(0, abs=1e-7)
    assert same.d == pytest.approx(plain.d)
    assert same.a is None
    # N and D are fixed, and have no interval; the excess loss depends on the law.
    assert same.n_interval is None
    assert same.d_interval is None
    assert same.excess_interval[0] >= 0


@pytest.mark.parametrize("fixed", ["n", "d"])
def test_excess_and_waste_of_a_fixed_size_by_hand(law: Law, fixed: str) -> None:
    found = allocate(law, AllocationBudget(c=6e20, **{fixed: 1e9 if fixed == "n" else 1e11}))
    assert (found.n, found.d) == (pytest.approx(1e9), pytest.approx(1e11))
    hand = 1.8172 + 482.01 / 1e9**0.3478 + 2085.43 / 1e11**0.3658
    assert found.loss == pytest.approx(hand, rel=1e-12)
    # At the optimum alpha A N^-alpha = beta B D^-beta, and the loss falls as C^-gamma.
    best = allocate(law, 6e20)
    assert found.excess == pytest.approx(hand - best.loss)
    gamma = 0.3478 * 0.3658 / (0.3478 + 0.3658)
    needed = 6e20 * ((hand - 1.8172) / (best.loss - 1.8172)) ** (-1 / gamma)
    assert found.waste == pytest.approx(1 - needed / 6e20, rel=1e-6)
    reached = allocate(law, AllocationBudget(loss=hand, **{fixed: 1e9 if fixed == "n" else 1e11}))
    assert (reached.n, reached.d) == (pytest.approx(1e9), pytest.approx(1e11))
    assert reached.waste == pytest.approx(found.waste, rel=1e-6)


def test_the_text_of_an_allocation_has_what_its_budget_asks_for(law: Law) -> None:
    fixed, served = (allocate(law, AllocationBudget(c=1e21, **given))
                     for given in ({"n": 1e9}, {"inference_tokens": 1e12}))
    assert f"share of C wasted = {fixed.waste:.4g}" in repr(fixed)
    assert f"loss above the optimum = {fixed.excess:.4g}" in repr(fixed)
    assert "C with inference = 1e+21" in repr(served)
    few = allocate(_repeating(law), AllocationBudget(c=1e21, unique_tokens=1e9))
    assert f"epochs = {few.epochs:.4g}" in repr(few)
    assert len(repr(allocate(law, 1e21)).splitlines()) == 4


def test_unlimited_data_gives_the_plain_optimum(law: Law) -> None:
    """Repetition costs nothing where there is none, and bends the law just at its optimum."""
    repeats = _repeating(law)
    plain = allocate(law, 1e21)
    for unique in (None, 1e15):
        best = allocate(repeats, AllocationBudget(c=1e21, unique_tokens=unique))
        assert best.n == pytest.approx(plain.n, rel=1e-4)
        assert best.loss == pytest.approx(plain.loss, rel=1e-9)
    assert best.epochs == 1


def test_little_data_is_repeated_at_a_higher_loss(law: Law) -> None:
    repeats = _repeating(law)
    found = [allocate(repeats, AllocationBudget(c=1e21, unique_tokens=u))
             for u in (1e11, 1e10, 1e9)]
    assert all(row.epochs == pytest.approx(max(1, row.d / row.unique_tokens)) for row in found)
    assert found[0].loss < found[1].loss < found[2].loss
    for row in found:
        nearby = [_loss_of(repeats, row.n * f, row.d / f, row.unique_tokens) for f in (0.9, 1.1)]
        assert min(nearby) > row.loss
    # A tenth of the tokens, in ten epochs, is nearly as good as all of them (section 6.1).
    assert found[1].loss - allocate(law, 1e21).loss < 0.05
    with pytest.raises(UserError, match="does not model repeated data"):
        allocate(law, AllocationBudget(c=1e21, unique_tokens=1e9))


def _repeating(law: Law) -> Law:
    """Besiroglu's constants in Muennighoff's law."""
    params = {**law.params, "R_D": 15.4, "R_N": 5.3}
    return replace(law, form=FORMS["muennighoff"], params=params, exponents={})


def _loss_of(law: Law, n: float, d: float, u: float) -> float:
    values = {"n": np.array([n]), "d": np.array([d]), "u": np.array([u])}
    return float(law.loss(values)[0])


def _uncertain(law: Law, times: int = 20) -> Law:
    """The law with resamples, all parameters uncertain by two percent."""
    spread = 0.02 * np.random.default_rng(0).standard_normal((times, law.point.shape[1]))
    return replace(law, bootstrap=Bootstrap(times, times, 0, law.point * np.exp(spread),
                                            np.zeros(10)))


def _custom(formula: str, **params: float) -> Law:
    return Law(form=own_law(formula), convention={"n": "total"}, params=params)


def _on_budget(law: Law, c: float, u: float, points: int = 50_001) -> tuple[float, float]:
    """N and the loss of the best of many sizes that spend all of a budget."""
    n = np.geomspace(1e6, 1e13, points)
    losses = law.loss({"n": n, "d": c / (6 * n), "u": np.full_like(n, u)})
    return float(n[losses.argmin()]), float(losses.min())


def test_repeated_data_has_an_optimum_at_every_budget() -> None:
    law = published()["muennighoff2023"].law
    assert law is not None
    law, losses = _uncertain(law), []
    for c in (1e20, 3e21, 1e22, 1e24, 1e28):
        best = allocate(law, AllocationBudget(c=c, unique_tokens=1e9))
        n, lowest = _on_budget(law, c, 1e9)
        assert best.loss == pytest.approx(lowest, abs=1e-9), c
        assert best.loss_interval[0] < best.loss < best.loss_interval[1]
        assert best.n_interval[0] < best.n < best.n_interval[1]
        if best.total == c:
            assert best.n == pytest.approx(n, rel=3e-3), c
        assert any("rest of the budget buys nothing" in w for w in best.warnings) == (c >= 1e22), c
        losses.append((best.loss, best.total))
    assert losses == sorted(losses, key=lambda row: -row[0])
    # The last two spend the same, which is less than the budget, and has no exponent.
    assert losses[-1] == losses[-2]
    assert losses[-1][1] < 1e23
    assert best.a is None
    assert allocate(law, AllocationBudget(c=1e22, unique_tokens=1e9)).n == pytest.approx(
        5.465e9, rel=1e-3)
    # A model that is far too large is at the lowest loss, too, for many times the compute.
    large = allocate(law, AllocationBudget(c=1e30, n=1e11, unique_tokens=1e9))
    assert large.excess == pytest.approx(0, abs=1e-9)
    assert large.waste == pytest.approx(1 - best.total / large.total)


@pytest.mark.parametrize("target", [4.0, 2.9, 2.762, 2.7615])
def test_a_loss_above_the_floor_of_repeated_data_is_reached(target: float) -> None:
    law = published()["muennighoff2023"].law
    assert law is not None
    cheap = allocate(law, AllocationBudget(loss=target, unique_tokens=1e9))
    assert _on_budget(law, cheap.total, 1e9)[1] == pytest.approx(target, abs=1e-8)
    # Less reaches less, and the words for a loss below the floor say what it is.
    assert _on_budget(law, cheap.total * 0.9, 1e9)[1] > target
    below = allocate(law, AllocationBudget(loss=2.76, unique_tokens=1e9))
    assert below.total is None
    assert any("out of reach" in w and "whose lowest loss is 2.76145" in w for w in below.warnings)


def test_a_loss_that_rises_again_is_left_where_it_is_lowest() -> None:
    """K and M make the lowest loss finite, in closed form: each term has its own minimum."""
    law = _custom("E + A*n**-0.3 + B*d**-0.25 + K*n**0.5 + M*d**0.5", E=1.7, A=400.0, B=400.0,
                  K=1e-6, M=3e-5)
    n = (0.3 * 400 / (0.5 * 1e-6)) ** (1 / 0.8)
    d = (0.25 * 400 / (0.5 * 3e-5)) ** (1 / 0.75)
    lowest = loss(law, n, d)
    below, above = allocate(law, 0.5 * 6 * n * d), allocate(law, 1e4 * 6 * n * d)
    assert below.loss > lowest
    assert below.total == 0.5 * 6 * n * d
    assert (above.n, above.d) == (pytest.approx(n, rel=1e-4), pytest.approx(d, rel=1e-4))
    assert above.loss == pytest.approx(lowest, rel=1e-12)
    assert above.total == pytest.approx(6 * n * d, rel=1e-4)
    assert any("rest of the budget buys nothing" in w for w in above.warnings)
    sure = allocate(_uncertain(law), 1e8 * n * d)
    assert sure.n == pytest.approx(above.n, rel=1e-6)
    assert sure.n_interval[0] < n < sure.n_interval[1]
    # A fixed size is trained on no more tokens than do it good; and one that is too large is cut.
    fixed = allocate(law, AllocationBudget(c=1e4 * 6 * n * d, n=n / 5))
    assert (fixed.n, fixed.d) == (pytest.approx(n / 5), pytest.approx(d, rel=1e-4))
    assert fixed.excess == pytest.approx(loss(law, n / 5, d) - lowest, rel=1e-6)
    few = allocate(law, AllocationBudget(c=1e4 * 6 * n * d, d=d / 5))
    assert (few.n, few.d) == (pytest.approx(n, rel=1e-4), pytest.approx(d / 5))
    # Of the two token counts that give a loss, the smaller one is the cheaper.
    target = loss(law, n / 5, d / 3)
    reached = allocate(law, AllocationBudget(loss=target, n=n / 5))
    assert reached.d == pytest.approx(d / 3, rel=1e-6)
    assert any("whose lowest loss is" in w
               for w in allocate(law, AllocationBudget(loss=0.99 * lowest)).warnings)


def test_budgets_of_laws_that_keep_falling_are_spent(law: Law) -> None:
    for c in (1e15, 1e22, 1e30):
        best = allocate(law, AllocationBudget(c=c, flops_per_token=six_n))
        assert best.total == c
        assert not any("buys nothing" in w for w in best.warnings)
    lasting = _custom("E + A*exp(-n/S) + B*exp(-d/T)", E=2.0, A=3.0, B=3.0, S=1e9, T=1e10)
    assert any("buys nothing" in w for w in allocate(lasting, 1e26).warnings)


def test_fixed_n_and_d_are_a_prediction(sampled: Law) -> None:
    found = allocate(sampled, AllocationBudget(n=1e9, d=1e11))
    hand = 1.8172 + 482.01 / 1e9**0.3478 + 2085.43 / 1e11**0.3658
    assert found.loss == pytest.approx(hand, rel=1e-12)
    assert (found.n, found.d, found.c, found.total) == (1e9, 1e11, 6e20, 6e20)
    assert found.fixed == "both"
    values = {"n": np.array([1e9]), "d": np.array([1e11])}
    low, high = sampled.loss_band(values)
    assert found.loss_interval == (pytest.approx(low[0]), pytest.approx(high[0]))
    assert found.n_interval is found.d_interval is found.total_interval is None
    same = allocate(sampled, AllocationBudget(c=6e20, n=1e9))
    assert (found.excess, found.waste) == (pytest.approx(same.excess), pytest.approx(same.waste))
    served = allocate(sampled, AllocationBudget(n=1e9, d=1e11, inference_tokens=1e12))
    assert served.total == pytest.approx(6e20 + 2e21)
    assert served.c == pytest.approx(6e20)


def test_every_published_law_of_n_and_d_is_at_a_minimum() -> None:
    given = {"sparsity": 0.75, "granularity": 8.0}
    for entry in published().values():
        if entry.law is None or not can_allocate(entry, AllocationBudget(c=1e20, given=given)):
            continue
        best = allocate(entry, AllocationBudget(c=1e20, given=given))
        if best.n is None:
            assert any("no optimum" in warning for warning in best.warnings)
            continue
        active = 0.25 if "sparsity" in entry.law.form.variables else 1.0
        assert 6 * active * best.n * best.d == pytest.approx(1e20)
        for f in (0.9, 1.1):
            values = {"n": best.n * f, "d": best.d / f, "c": 1e20, "u": best.d / f, **given}
            nearby = entry.law.loss({k: np.array([v]) for k, v in values.items()})
            assert float(nearby[0]) > best.loss, entry.name


def test_intervals_are_those_of_new_runs(grid, constants) -> None:
    """The 90% interval of a quantity, against its spread over tables with other noise."""
    budgets = [AllocationBudget(c=1e13, inference_tokens=1e7), AllocationBudget(c=1e13, n=1e6),
               AllocationBudget(loss=1.75)]
    names = ("n", "waste", "total")
    estimates: list[list[float]] = [[], [], []]
    for seed in range(16):
        point = fit_law(from_frame(grid(noise=0.003, seed=seed), "runs"), "chinchilla", resamples=0)
        for values, budget, name in zip(estimates, budgets, names, strict=True):
            values.append(getattr(allocate(point, budget), name))
    boot = fit_law(from_frame(grid(noise=0.003, seed=0), "runs"), "chinchilla", resamples=120)
    for values, budget, name in zip(estimates, budgets, names, strict=True):
        spread = np.quantile(values, [0.05, 0.95])
        low, high = getattr(allocate(boot, budget), f"{name}_interval")
        assert 0.4 < (high - low) / (spread[1] - spread[0]) < 2.5


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "either compute in FLOPs or a target loss"),
    ({"c": 1e20, "loss": 2.0}, "either compute in FLOPs or a target loss"),
    ({"c": 1e20, "n": 1e9, "d": 1e9}, "compute=, n= and d= are all given"),
    ({"loss": 2.0, "n": 1e9, "d": 1e9}, "loss=, n= and d= are all given"),
    ({"n": 1e9}, "compute= or loss=; or both n= and d="),
    ({"n": 1e18, "d": 1e20}, "N 1e\\+18 and D 1e\\+20 take compute 6e\\+38"),
    ({"c": 1e20, "n": -1}, "fixed N -1: a positive number of parameters"),
    ({"loss": float("nan")}, "nats per token"),
    ({"c": 1e20, "inference_tokens": -1.0}, "inference tokens -1: a positive number of tokens"),
    ({"c": 1e20, "given": {"n": 8}}, "since the budget has it; give n="),
    ({"c": 1e20, "given": {"experts": 0}}, "above zero"),
])
def test_invalid_budgets_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AllocationBudget(**arguments)  # type: ignore[arg-type]


def test_budgets_that_a_law_does_not_support_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected is one of .*experts"):
        allocate(published()["besiroglu2024"], AllocationBudget(c=1e20, given={"expert": 8}))
    with pytest.raises(UserError, match="gives N\\* at a compute budget but no law"):
        allocate(published()["hoffmann2022-1"], AllocationBudget(c=1e20, n=1e9))
    with pytest.raises(UserError, match=r"with given=\{'granularity': VALUE\}"):
        allocate(published()["krajewski2024"], 1e20)
    with pytest.raises(UserError, match="compute 1e\\+20: leaves less than one training token, "
                                        "because 1e\\+09 parameters and 1e\\+13 inference tokens "
                                        "take at least"):
        AllocationBudget(c=1e20, n=1e9, inference_tokens=1e13)
