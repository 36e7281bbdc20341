"""Derivatives of forms, by differences."""

from __future__ import annotations

import numpy as np

from scaling.laws import Form

STEP = 1e-5


def check_derivatives(
    form: Form, theta: np.ndarray, x: np.ndarray, weights: np.ndarray, *,
    gradient_atol: float, hessian_rtol: float, hessian_atol: float,
) -> None:
    """The gradient of the prediction and the weighted Hessian are central differences of the
    prediction and of the gradient.

    Args:
        form: the form.
        theta: parameters, [B, P].
        x: coordinates of the runs, [R, V].
        weights: of the runs in the Hessian, [B, R].
        gradient_atol: absolute tolerance of the gradient; the relative one is 1e-5.
        hessian_rtol: relative tolerance of the Hessian.
        hessian_atol: absolute tolerance of the Hessian.
    """
    gradient = form.gradient(theta, x)[1]
    hessian = form.hessian(theta, x, weights, gradient)
    for place in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[place] = STEP
        ahead, behind = theta + step, theta - step
        slope = (form.predict(ahead, x) - form.predict(behind, x)) / (2 * STEP)
        np.testing.assert_allclose(gradient[..., place], slope, rtol=1e-5, atol=gradient_atol)
        bend = (form.gradient(ahead, x)[1] - form.gradient(behind, x)[1]) / (2 * STEP)
        np.testing.assert_allclose(hessian[:, place], np.einsum("br,brp->bp", weights, bend),
                                   rtol=hessian_rtol, atol=hessian_atol)
