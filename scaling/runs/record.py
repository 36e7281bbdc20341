"""The record of a finished run: its row of the runs table, its speed and its cost."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scaling.accounting import (
    count_parameters,
    flops_6nd,
    run_flops_per_token,
    trained_parameters,
)
from scaling.accounting.hardware import peak_flops_of_kind
from scaling.config import RunConfig, run_identity, semantic
from scaling.data.run_data import training_batches
from scaling.data.store import TokenStore


class HeldoutLoss(NamedTuple):
    """A held-out loss and its standard error."""

    loss: float
    """Mean over predictions, in nats."""
    se: float
    """Standard error of the mean over sequences."""


def ratio_estimate(losses_B: NDArray[np.float64], weights_B: NDArray[np.float64]) -> HeldoutLoss:
    """Ratio estimator of a weighted mean loss: the sum of losses over the sum of weights, with its
    standard error over sequences.

    The standard error is that of a ratio estimator (Cochran 1977, "Sampling Techniques", section
    2.11), which for equal weights is that of a mean.
    """
    loss = losses_B.sum() / weights_B.sum()
    residual_B = losses_B - loss * weights_B
    n = len(losses_B)
    spread = math.sqrt(n / (n - 1) * float(residual_B @ residual_B))
    return HeldoutLoss(float(loss), float(spread / weights_B.sum()))


class RunResult(NamedTuple):
    """The result of training a run."""

    status: str
    """"done" or "diverged"."""
    losses: dict[str, HeldoutLoss]
    """Held-out losses of the parts of the objective, the first of them in nats per predicted token;
    empty if the run diverged."""
    target_entropy: float
    """Entropy of the distribution of held-out targets, in nats: the loss of a model that knows only
    their frequencies."""
    steps: int
    """Number of optimizer steps."""
    seconds: float
    """Time spent training, compiling and evaluating, over all processes that trained the run,
    without that of its trunk."""
    eval_sequences: int
    """Number of held-out sequences."""
    branch: dict[str, Any] | None = None
    """Where the run branched off its trunk, if it has one: `run_id` of the trunk, and `step`."""
    packed: int = 1
    """Number of runs that were trained together (training/packed.py) in the same `seconds`."""
    bytes_per_prediction: float | None = None
    """Mean number of UTF-8 bytes per held-out prediction; None for a language without text."""


def describe_run(run: RunConfig, store: TokenStore) -> dict[str, Any]:
    """The columns of the runs table that the configuration of a run determines.

    N is that of the model (for ELECTRA, of the discriminator), with and without embeddings; D is
    tokens of text; flops_6nd is 6 N D with all parameters; flops_counted counts the matrix
    products, including those of a generator or teacher; the warm-up and the decay of the learning
    rate are fractions of the run's steps.
    """
    parameters = count_parameters(run.model)
    tokens = run.trained_tokens
    batches = training_batches(run, store)
    return {
        "run_id": run_identity(run, store.hash),
        "mode": run.model.mode,
        "family": (run.model.preset or "custom").split("/")[0],
        "objective": run.objective.kind,
        "corpus": store.corpus,
        "params_total": parameters.total,
        "params_non_embedding": parameters.non_embedding,
        "tokens": tokens,
        "unique_tokens": batches.unique_sequences(run.steps) * run.sequence_tokens,
        "epochs": batches.epochs_for(run.steps),
        "batch_tokens": run.batch_tokens,
        "lr": run.optimizer.learning_rate,
        "warmup_fraction": run.schedule.warmup_steps_of(run.steps) / run.steps,
        "decay_fraction": run.schedule.decay_steps_of(run.steps) / run.steps,
        "seed": run.seed,
        "flops_6nd": flops_6nd(parameters.total, tokens),
        "flops_counted": run_flops_per_token(run) * tokens,
    }


def make_record(
    run: RunConfig, store: TokenStore, result: RunResult, environment: dict[str, Any]
) -> dict[str, Any]:
    """The record as plain data. A diverged run has no loss, and has the number of steps until it
    diverged. The FLOPs of the run itself and those shared with its trunk are separate. `init` is
    what identifies the model that it began from, and null if its parameters were drawn."""
    done = result.status == "done"
    shared_steps = result.branch["step"] if result.branch else 0
    speed = (result.steps - shared_steps) * run.batch_tokens / result.seconds
    peak = peak_flops_of_kind(environment["device_kind"])
    flops_per_token = run_flops_per_token(run)
    flops_per_second = speed * flops_per_token
    main = next(iter(result.losses.values())) if done else None
    return describe_run(run, store) | {
        "loss": main.loss if main else None,
        "loss_se": main.se if main else None,
        "bits_per_byte": _bits_per_byte(main.loss, result) if main else None,
        **{f"loss_{part}": heldout.loss if done else None
           for part, heldout in result.losses.items() if len(result.losses) > 1},
        "target_entropy": result.target_entropy,
        "status": result.status,
        "eval_sequences": result.eval_sequences,
        "steps": result.steps,
        "trunk": result.branch,
        "flops_shared": shared_steps * run.batch_tokens * flops_per_token,
        "flops_own": (result.steps - shared_steps) * run.batch_tokens * flops_per_token,
        "init": semantic(run, store.hash).get("init"),
        "params_trained": trained_parameters(run.model, run.trainable),
        "packed": result.packed,
        "seconds": round(result.seconds, 3),
        "tokens_per_second": round(speed, 1),
        "mfu": flops_per_second / (peak * environment["devices"]) if peak else None,
        "device_kind": environment["device_kind"],
        "devices": environment["devices"],
        "commit": environment["commit"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _bits_per_byte(loss: float, result: RunResult) -> float | None:
    """The loss in bits per byte of the predicted held-out text: all text for causal models and
    BART, the text after the prefix, or the masked or removed text, for the others. For these it is
    conditioned on the rest of the text and is not the likelihood of a whole text, so it can be
    compared only within one objective."""
    per_prediction = result.bytes_per_prediction
    return loss / (per_prediction * math.log(2)) if per_prediction else None
