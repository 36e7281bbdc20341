"""The biases of the models of Chinchilla's table A9, inferred from their parameter counts.

The paper prints the parameters of 50 models, rounded to millions, but does not specify whether
norms, projections and the logits of the vocabulary have biases. Biases are a small share of the
parameters, but the 50 counts together constrain them: a combination is possible only if every count
rounds to the printed one.

Hypothesis: the biases of GPT-2 (on projections, not on the logits) with RMS norms, which are
documented for Gopher, the same architecture.

Method: N = 32000 d + L (5 d a + 2 d f) + norms + biases, where a = heads x d_head, f is the
feed-forward width and the fifth d a projects Transformer-XL's relative positions; counted for all
96 combinations of: biases of norms, of the attention's projections, of the feed-forward layer, of
the projection of positions, of the logits, and the two learned query vectors (none, one pair per
layer, one shared pair).

    python experiments/chinchilla_biases.py            # about one second

Result, as measured: results/chinchilla_biases/combinations.csv. Four combinations round to the
printed million in all 50 rows. All four have a bias on the logits and vectors of 10 d in total per
layer; they differ in which vectors. With GPT-2's biases, 42 rows round correctly and the error at
74M is 0.254%. The preset has RMS norms, biases on all projections and on the logits: 41 rows round
correctly, and the largest error from 74M up is 0.221%.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd

from scaling.config import ModelConfig
from scaling.config.presets import family_named
from scaling.console import out
from scaling.files import write_atomically

RESULTS = Path("results/chinchilla_biases")
VOCABULARY = 32_000
MILLION = 1e6
MIN_MILLIONS = 74
"""Millions of parameters from which on the relative rounding error of printed counts is small."""
PARTS = ("norms", "attention", "feed_forward", "positions", "logits")
QUERY_VECTORS = ("none", "per layer", "shared")


def count(size: ModelConfig, biased: dict[str, bool], query_vectors: str) -> int:
    """Number of parameters of one model of the table.

    Args:
        size: the configuration of the model.
        biased: whether each of PARTS has biases.
        query_vectors: one of QUERY_VECTORS.
    """
    d, layers, f = size.d_model, size.n_layers, size.ff_width
    a = size.n_heads * size.head_width
    norms = (2 * layers + 1) * d
    in_layer = (
        5 * d * a + 2 * d * f + biased["attention"] * (3 * a + d)
        + biased["feed_forward"] * (f + d) + biased["positions"] * a
    )
    pairs = {"none": 0, "per layer": layers, "shared": 1}[query_vectors]
    return (VOCABULARY * (d + biased["logits"]) + norms * (1 + biased["norms"])
            + layers * in_layer + pairs * 2 * a)


def study() -> pd.DataFrame:
    """The table: one row per combination, the best first."""
    published = family_named("chinchilla").sizes
    sizes = {
        round(known.params / MILLION): ModelConfig(preset=f"chinchilla/{name}")
        for name, known in published.items() if known.params and name != "70B"
    }
    rows = []
    for flags in itertools.product((False, True), repeat=len(PARTS)):
        for query_vectors in QUERY_VECTORS:
            biased = dict(zip(PARTS, flags, strict=True))
            counted = {printed: count(size, biased, query_vectors) / MILLION
                       for printed, size in sizes.items()}
            rows.append(biased | {
                "query_vectors": query_vectors,
                "rows_rounding_correctly": sum(
                    round(millions) == printed for printed, millions in counted.items()),
                "largest_error_from_74M": max(
                    abs(millions / printed - 1)
                    for printed, millions in counted.items() if printed >= MIN_MILLIONS),
            })
    order = ["rows_rounding_correctly", "largest_error_from_74M"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, True], ignore_index=True)


def main() -> None:
    """Compute and write the table, and print its best rows."""
    table = study()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "combinations.csv"
    write_atomically(path, table.to_csv(index=False, float_format="%.5f"))
    out.print(table.head(6).to_string(index=False), markup=False)
    out.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    main()
