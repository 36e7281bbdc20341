"""Laws of the vocabulary: the loss with vocabulary parameters apart, and their optimal number.

N counts non-vocabulary parameters, and N_v the vocabulary size times the width. Losses of different
vocabularies cannot be compared per token, so that the outcome is the unigram-normalised loss: that
of the model less that of a unigram model of the same tokens, which is negative.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from scaling.laws.forms.form import Form
from scaling.laws.forms.formula import Formula
from scaling.laws.forms.losses import ResidualLoss
from scaling.laws.forms.powers import PowerProduct, Term
from scaling.laws.forms.variables import VARIABLES

Array = NDArray[np.float64]

_LEAST = 1e-3  # smallest coefficient at a starting point, relative to the largest term
_SOURCE = "Tao et al. 2024, arXiv:2407.13623"


@dataclass(frozen=True, kw_only=True, repr=False)
class VocabularyLoss(Formula):
    """-E + A1/N^alpha1 + A2/N_v^alpha2 + B/D^beta, a unigram-normalised loss.

    E is what a model of unlimited size and data gains over a unigram model, in nats per token. The
    authors fit with alpha1 = beta.
    """

    def outcome_of(self, p: Any, v: Any) -> Any:
        return (-p.E + p.A1 * v.n**-p.alpha1 + p.A2 * v.vocabulary**-p.alpha2
                + p.B * v.d**-p.beta)

    def gradient(self, theta_BP: Array, x_RV: Array) -> tuple[Array, Array]:
        params_BPR = self._natural(theta_BP)[..., None]
        e, coefficients, powers = params_BPR[:, 0], params_BPR[:, 1:4], params_BPR[:, 4:]
        log_x = np.log(x_RV.T)
        with np.errstate(all="ignore"):
            terms = coefficients * np.exp(-powers * log_x)
        j_BPR = np.concatenate([np.broadcast_to(-e, terms[:, 0].shape)[:, None], terms,
                                -terms * powers * log_x], axis=1)
        return terms.sum(axis=1) - e, j_BPR.swapaxes(-1, -2)

    def starts(self, x_RV: Array, outcome_R: Array) -> Array:
        """At fixed exponents the law is linear in E, A1, A2 and B, which are not negative."""
        starts = []
        for powers in itertools.product(*self.grid.values()):
            terms_RK = np.column_stack([-np.ones(len(x_RV)), x_RV**-np.array(powers)])
            scale_K = np.abs(terms_RK).max(axis=0)
            solution, _ = scipy.optimize.nnls(terms_RK / scale_K, outcome_R)
            coefficients = np.maximum(solution, _LEAST * np.abs(outcome_R).max()) / scale_K
            starts.append([*np.log(coefficients), *np.log(powers)])
        return np.array(starts)


FORMS: tuple[Form, ...] = (
    # By the errors of the loss itself, like the authors', since its logarithm does not exist.
    VocabularyLoss(
        name="tao", formula="-E + A1/N^alpha1 + A2/N_v^alpha2 + B/D^beta",
        source=f"{_SOURCE}, approach 3", variables=("n", "vocabulary", "d"),
        parameters=("E", "A1", "A2", "B", "alpha1", "alpha2", "beta"), counting="non-embedding",
        outcome="unigram-normalised loss, nats per token", link="identity",
        distinct=3,
        grid={"alpha1": (0.25, 0.6), "alpha2": (0.3, 0.8), "beta": (0.25, 0.6)},
    ),
    PowerProduct(
        name="tao-vocabulary", formula="k N^gamma", source=f"{_SOURCE}, approach 2",
        variables=("n",), parameters=("k", "gamma"), counting="non-embedding",
        outcome=VARIABLES["vocabulary"].unit, robust=ResidualLoss("squared"),
        terms=(Term("k", (("n", "gamma"),)),), numerator=("gamma",),
    ),
)
"""The unigram-normalised loss, and the optimal vocabulary parameters of a model size."""
