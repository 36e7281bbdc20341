"""Laws of the best learning rate and the best batch.

Their outcome is not a loss: a row of the table is the optimum of one sweep of the hyperparameter,
and the column that is named as the loss holds the value found. All are fitted by least squares of
the outcome's logarithm, as straight lines in log-log are.
"""

from __future__ import annotations

from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import Term
from scaling.laws.forms.products import Product

LEARNING_RATE = "learning rate"
BATCH = "tokens in a batch"

_DEEPSEEK = "DeepSeek-AI 2024, arXiv:2401.02954, eq. 1"
_STEP = "Li et al. 2025 (Step law), arXiv:2503.04715, eq. 1"

FORMS: tuple[Form, ...] = (
    Product(
        name="deepseek-lr", formula="k C^-alpha", source=_DEEPSEEK, variables=("c",),
        parameters=("k", "alpha"), counting="non-embedding", outcome=LEARNING_RATE,
        robust=Robust("squared"), terms=(Term("k", (("c", "alpha"),)),),
    ),
    Product(
        name="deepseek-batch", formula="k C^alpha", source=_DEEPSEEK, variables=("c",),
        parameters=("k", "alpha"), counting="non-embedding", outcome=BATCH,
        robust=Robust("squared"), terms=(Term("k", (("c", "alpha"),)),), rising=("alpha",),
    ),
    Product(
        name="step-lr", formula="k N^-alpha D^beta", source=_STEP, variables=("n", "d"),
        parameters=("k", "alpha", "beta"), counting="non-embedding", outcome=LEARNING_RATE,
        robust=Robust("squared"), terms=(Term("k", (("n", "alpha"), ("d", "beta"))),),
        rising=("beta",),
    ),
    Product(
        name="step-batch", formula="k D^beta", source=_STEP, variables=("d",),
        parameters=("k", "beta"), counting="non-embedding", outcome=BATCH,
        robust=Robust("squared"), terms=(Term("k", (("d", "beta"),)),), rising=("beta",),
    ),
)
"""Peak learning rates, and batches in tokens, from the compute, or from N and D."""
