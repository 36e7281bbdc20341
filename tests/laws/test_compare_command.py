"""`scaling compare`, and the options of `scaling allocate`, from the command line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from scaling.cli.main import app
from scaling.errors import UserError
from scaling.laws import Allocation, Bootstrap, allocate, published, save
from scaling.laws.allocation.budgets import AllocationBudget
from scaling.laws.conventions.compare import agreements, compare, verdict
from scaling.laws.conventions.reconcile import kaplan_power_law
from scaling.laws.conventions.recount import Relation


def _run(*words: object) -> str:
    """Standard output of a command that succeeds; raises what it raises."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(autouse=True)
def _follow_standard_output(monkeypatch) -> None:
    """Replace the consoles that were made at import, because the runner replaces sys.stdout."""
    for name, stderr in (("out", False), ("err", True)):
        console = Console(stderr=stderr, highlight=False, soft_wrap=True, width=400)
        for module in ("console", "cli.allocate", "cli.compare"):
            monkeypatch.setattr(f"scaling.{module}.{name}", console)


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """Besiroglu's law as if it were fitted, in a file."""
    law = published()["besiroglu2024"].law
    assert law is not None
    samples = law.point * np.exp(0.01 * np.random.default_rng(0).standard_normal((60, 5)))
    path = tmp_path / "mine.json"
    save([replace(law, n_runs=240, bootstrap=Bootstrap(60, 60, 0, samples, np.zeros(5)))], path)
    return path


def test_laws_side_by_side(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    shown = _run("compare", fitted, "besiroglu2024", "kaplan2020", "--compute", "1e19,1e21",
                 "--out", out)
    assert "mine: chinchilla" in shown
    assert "2 of 2" in shown
    assert "0.781" in shown  # by Kaplan's method
    content = json.loads(out.read_text())
    assert content["compute"] == [1e19, 1e21]
    mine, same, kaplan = content["laws"]
    assert mine["n_runs"] == 240
    assert mine["params"] == same["params"]
    for row in mine["allocations"]:
        assert row["a_interval"][0] < row["a"] < row["a_interval"][1]
    assert [row["counting"] for row in kaplan["allocations"]] == ["non-embedding"] * 2
    first = content["agreements"][0]
    assert (first["first"], first["second"]) == ("mine: chinchilla", "Besiroglu 2024")
    assert {first[name] for name in ("a", "n", "d", "loss")} == {"inside"}
    far = next(row for row in content["agreements"] if row["second"] == "Kaplan 2020")
    assert far["a"] == "outside"


def test_one_convention_for_all(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    _run("compare", "besiroglu2024", "kaplan2020", "--convention", "non-embedding", "--compute",
         "1e15", "--out", out)
    law, kaplan = json.loads(out.read_text())["laws"]
    assert law["convention"]["n"] == "non-embedding"
    assert law["convention"]["from"] == "total"
    assert law["allocations"][0]["a"] == pytest.approx(0.844, abs=1e-3)
    assert kaplan["allocations"][0]["a"] == 0.73  # which already uses this count


def test_kaplans_own_models_with_their_embeddings() -> None:
    """The paper gives only sizes: the same models at the same tokens, under another count."""
    row = compare([("", published()["kaplan2020"])], [1e20], "total")[0].allocations[0]
    bare = row.n
    for _ in range(50):  # N = bare + omega bare^(1/3), by iteration
        bare = row.n - 47491 * np.cbrt(bare)
    assert 6 * row.n * row.d == pytest.approx(1e20, rel=1e-9)
    # Kaplan's own curve through 1.3e9 at one PF-day, at the budget that leaves embeddings out.
    assert bare == pytest.approx(1.3e9 * (6 * bare * row.d / 8.64e19) ** 0.73, rel=1e-6)
    assert row.a < 0.73
    assert any("recounted" in warning for warning in row.warnings)


@dataclass(frozen=True)
class Square:
    """N* = D* with an interval, as a frontier fitted to optima would give them."""

    name: str = "square"
    convention: Mapping[str, str] = field(default_factory=lambda: {
        "n": "non-embedding", "d": "tokens", "c": "6 N D", "loss": "nats per token"})

    def allocation(self, c: float, source: str = "") -> Allocation:
        n = float(np.sqrt(c / 6))
        return Allocation(source, "non-embedding", c, n, n, None, 0.5, n_interval=(n / 2, 2 * n),
                          a_interval=(0.4, 0.6), level=0.8)


def test_a_frontier_without_a_law_of_the_loss() -> None:
    double = Relation(lambda n: 2 * n, lambda n: n / 2, "every model has as many embeddings")
    entry, law = compare([("", Square()), ("", published()["besiroglu2024"])], [1e20], "total",
                         double)
    row = entry.allocations[0]
    # 1e20 FLOPs with embeddings are 5e19 without.
    assert row.n == pytest.approx(2 * np.sqrt(5e19 / 6))
    assert row.d == pytest.approx(row.n / 2)
    assert row.n_interval == pytest.approx((row.n / 2, 2 * row.n))
    assert row.a == pytest.approx(0.5)
    assert law.allocations[0].counting == "total"
    assert agreements([entry, law])[0].verdicts["loss"] is None
    with pytest.raises(UserError, match="gives N\\* at a compute budget"):
        allocate(Square(), AllocationBudget(loss=2.0))


def test_a_table_of_models(tmp_path: Path) -> None:
    table, out = tmp_path / "models.csv", tmp_path / "x.json"
    table.write_text("params_total,params_non_embedding\n2e6,1e6\n2e9,1e9\n")
    _run("compare", "besiroglu2024", "--convention", "non-embedding", "--models", table,
         "--compute", "1e19", "--out", out)
    half = json.loads(out.read_text())["laws"][0]["allocations"][0]
    _run("compare", "besiroglu2024", "--compute", "2e19", "--out", out)
    whole = json.loads(out.read_text())["laws"][0]["allocations"][0]
    # Where total is twice the rest, 1e19 FLOPs without embeddings are 2e19 with them.
    assert half["n"] == pytest.approx(whole["n"] / 2, rel=1e-6)
    assert half["d"] == pytest.approx(whole["d"], rel=1e-6)


def test_verdicts() -> None:
    assert verdict(1.0, (0.5, 1.5), 2.0, (1.4, 2.5)) == "overlap"
    assert verdict(1.0, (0.5, 1.5), 2.0, (1.6, 2.5)) == "apart"
    assert verdict(1.0, (0.5, 1.5), 1.2, None) == "inside"
    assert verdict(2.0, None, 1.0, (0.5, 1.5)) == "outside"
    assert verdict(1.0, None, 1.0, None) is None
    assert verdict(None, (0.5, 1.5), 1.0, (0.5, 1.5)) is None
    assert verdict(1.0, (0.5, 1.5), 2.0, (1.5, 2.5)) == "overlap"  # in a single point
    assert verdict(1.0, (0.5, 1.5), 1.5, None) == "inside"
    assert verdict(0.5, None, 1.0, (0.5, 1.5)) == "inside"
    assert verdict(0.49, None, 1.0, (0.5, 1.5)) == "outside"
    assert verdict(1.0, (0.9, 1.1), 1.0, (0.5, 1.5)) == "overlap"
    pairs = [(None, None), (1.0, None), (2.0, None), (1.0, (0.5, 1.5)), (2.0, (1.4, 2.5)),
             (3.0, (2.0, 3.5)), (0.4, (0.5, 1.5))]
    for x, y in itertools.product(pairs, repeat=2):
        assert verdict(*x, *y) == verdict(*y, *x)


def test_what_a_comparison_says_of_its_laws() -> None:
    """Which count, of which count before, whether Kaplan's method applies, and at what values."""
    known = published()
    double = Relation(lambda n: 2 * n, lambda n: n / 2, "every model has as many embeddings")
    total, bare, sizes = compare(
        [("mine", known["besiroglu2024"]), ("", known["kaplan2020-nd"]), ("", known["kaplan2020"])],
        [1e18, 1e20], "non-embedding", double)
    assert (total.source, bare.source, sizes.source) == (
        "mine", known["kaplan2020-nd"].title, known["kaplan2020"].title)
    assert [total.convention.get(key) for key in ("n", "from", "c")] == [
        "non-embedding", "total", "6 N D"]
    assert "from" not in bare.convention
    assert bare.kaplan is None  # whose losses are no function of all parameters
    assert sizes.kaplan is None
    assert total.kaplan == kaplan_power_law(known["besiroglu2024"].law, double)
    assert total.kaplan != kaplan_power_law(known["besiroglu2024"].law)
    assert [row.c for row in total.allocations] == [1e18, 1e20]
    of_pairs = agreements([total, bare, sizes])
    assert [(a.first, a.second, a.c) for a in of_pairs] == [
        (x.source, y.source, c) for x, y in ((total, bare), (total, sizes), (bare, sizes))
        for c in (1e18, 1e20)]
    few, many = (compare([("", known["krajewski2024"])], [1e20], given={"granularity": g})[0]
                 for g in (2.0, 32.0))
    assert few.allocations[0].loss > many.allocations[0].loss
    assert few.to_json()["law"] == known["krajewski2024"].law.name
    law = known["besiroglu2024"].law
    counted = replace(law, convention={**law.convention, "c": "flops_counted"})
    for counting, c in ((None, "flops_counted"), ("total", "flops_counted"),
                        ("non-embedding", "6 N D")):
        assert compare([("", counted)], [1e20], counting, double)[0].convention["c"] == c
    # Of sizes alone: the exponent of twice as many parameters is the same, and nothing is known
    # of its spread.
    (square,) = compare([("", Square())], [1e20, 1e22], "total", double)
    assert [square.convention[key] for key in ("n", "from")] == ["total", "non-embedding"]
    assert square.allocations[1].n / square.allocations[0].n == pytest.approx(10)
    for row, c in zip(square.allocations, (1e20, 1e22), strict=True):
        assert (row.c, row.total, row.counting) == (c, c, "total")
        assert (row.a_interval, row.level) == (None, None)


def test_allocate_takes_several_budgets(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    _run("allocate", "besiroglu2024", "--compute", "1e18,1e20", "--compute", "1e22", "--out", out)
    content = json.loads(out.read_text())
    assert content["compute"] == [1e18, 1e20, 1e22]
    mine = [row for row in content["allocations"] if row["source"] == "Besiroglu 2024"]
    assert [row["c"] for row in mine] == content["compute"]


def test_allocate_takes_constraints(fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"

    def first(*words: object) -> dict[str, float]:
        _run("allocate", fitted, *words, "--out", out)
        row: dict[str, float] = json.loads(out.read_text())["allocations"][0]
        return row

    plain = first("--compute", "1e21")
    served = first("--compute", "1e21", "--inference-tokens", "1e12")
    assert served["n"] < plain["n"]
    assert served["total"] == 1e21 > served["c"]
    wide = first("--compute", "1e21", "--fixed-n", plain["n"] * 3)
    assert wide["excess"] > 0
    assert 0 < wide["waste"] < 1
    assert first("--compute", "1e21", "--fixed-d", plain["d"])["excess"] == pytest.approx(
        0, abs=1e-9)
    assert first("--target-loss", plain["loss"])["c"] == pytest.approx(1e21, rel=1e-6)
    shown = _run("allocate", "muennighoff2023", "--compute", "1e21", "--unique-tokens", "1e9")
    assert "epochs" in shown
    assert "Kaplan 2020" not in shown  # which has no answer


@pytest.mark.parametrize(("words", "message"), [
    (["compare", "besiroglu"], "did you mean besiroglu2024"),
    (["compare", "besiroglu2024", "--compute", "1e20,much"], "--compute much: a number"),
    (["compare", "besiroglu2024", "--compute", "-1"], "positive number of FLOPs"),
    (["compare", "kaplan2020-n"], "does not determine how to divide compute"),
    (["compare", "besiroglu2024", "--omega", "3", "--models", "x.csv"], "give only one"),
    (["compare", "besiroglu2024", "--omega", "0"], "positive number"),
    (["allocate", "besiroglu2024", "--compute", "1e20", "--target-loss", "2"],
     "either as --compute"),
    (["allocate", "besiroglu2024", "--compute", "1e20", "--fixed-n", "1", "--fixed-d", "1"],
     "--compute, --fixed-n and --fixed-d are all given"),
    (["allocate", "besiroglu2024", "--gpu-hours", "9", "--gpu", "H100", "--fixed-n", "1e9",
      "--fixed-d", "1e9"], "--gpu-hours, --fixed-n and --fixed-d are all given"),
    (["allocate", "besiroglu2024", "--fixed-n", "1e9"], "or both --fixed-n N and --fixed-d D"),
    (["allocate", "besiroglu2024", "--compute", "1e20", "--unique-tokens", "1e9"],
     "such as muennighoff"),
    (["allocate", "besiroglu2024", "--compute", "1e20", "--given", "experts"], "NAME=VALUE"),
    (["allocate", "besiroglu2024", "--target-loss", "2.0,low"], "--target-loss low"),
    (["allocate", "besiroglu2024", "--compute", "1e20", "--given", "experts=8"],
     "--given experts=: none of these laws depends on experts"),
    (["compare", "besiroglu2024", "kaplan2020", "--given", "bits=8"],
     "--given bits=: none of these laws depends on bits"),
    (["compare", "besiroglu2024", "--omega", "1e300"], "up to 1e\\+09 is expected"),
])
def test_invalid_options_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _run(*words)


def test_a_table_of_models_without_its_columns(tmp_path: Path) -> None:
    table = tmp_path / "models.csv"
    table.write_text("params_total\n2e6\n")
    with pytest.raises(UserError, match="no column params_non_embedding"):
        _run("compare", "besiroglu2024", "--models", table)


def test_help_has_an_example() -> None:
    assert "scaling compare " in _run("compare", "--help").partition("Example")[2]
