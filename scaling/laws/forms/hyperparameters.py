"""Laws of the optimal learning rate and the optimal batch size.

Their outcome is not a loss: each row of the table is the optimum of one hyperparameter sweep, in
the column that is given as the loss. All are fitted by least squares of the outcome's logarithm,
which is linear regression in log-log space.
"""

from __future__ import annotations

from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import PowerProduct, Term

LEARNING_RATE = "learning rate"
BATCH = "tokens in a batch"

_DEEPSEEK = "DeepSeek-AI 2024, arXiv:2401.02954, eq. 1"
_STEP = "Li et al. 2025 (Step law), arXiv:2503.04715, eq. 1"

FORMS: tuple[Form, ...] = (
    PowerProduct(
        name="deepseek-lr", formula="k C^-alpha", source=_DEEPSEEK, variables=("c",),
        parameters=("k", "alpha"), counting="non-embedding", outcome=LEARNING_RATE,
        robust=ResidualLoss("squared"), terms=(Term("k", (("c", "alpha"),)),),
    ),
    PowerProduct(
        name="deepseek-batch", formula="k C^alpha", source=_DEEPSEEK, variables=("c",),
        parameters=("k", "alpha"), counting="non-embedding", outcome=BATCH,
        robust=ResidualLoss("squared"), terms=(Term("k", (("c", "alpha"),)),), numerator=("alpha",),
    ),
    PowerProduct(
        name="step-lr", formula="k N^-alpha D^beta", source=_STEP, variables=("n", "d"),
        parameters=("k", "alpha", "beta"), counting="non-embedding", outcome=LEARNING_RATE,
        robust=ResidualLoss("squared"), terms=(Term("k", (("n", "alpha"), ("d", "beta"))),),
        numerator=("beta",),
    ),
    PowerProduct(
        name="step-batch", formula="k D^beta", source=_STEP, variables=("d",),
        parameters=("k", "beta"), counting="non-embedding", outcome=BATCH,
        robust=ResidualLoss("squared"), terms=(Term("k", (("d", "beta"),)),), numerator=("beta",),
    ),
)
"""Peak learning rate, and batch size in tokens, as functions of C, or of N and D."""
