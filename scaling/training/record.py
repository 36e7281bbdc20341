"""The record of a run that is over: its row of the runs table, and what it took."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

from scaling.accounting import count_parameters, flops_6nd, training_flops_per_token
from scaling.accounting.hardware import peak_flops_of_kind
from scaling.config import RunConfig, run_identity
from scaling.data.batches import Batches
from scaling.data.store import TokenStore


class Outcome(NamedTuple):
    """How training ended."""

    status: str
    """"done" or "diverged"."""
    loss: float
    """Held-out loss, nats per token; NaN if the run diverged."""
    loss_se: float
    """Its standard error over sequences."""
    steps: int
    seconds: float
    """Spent training, compiling and evaluating, over all processes that worked on the run."""
    eval_sequences: int


def describe_run(run: RunConfig, store: TokenStore) -> dict[str, Any]:
    """What is known of a run before it is trained: the columns of the runs table that its
    configuration determines. N is counted twice, with and without embeddings; flops_6nd is 6 N D
    with all parameters; flops_counted counts the matrix products."""
    parameters = count_parameters(run.model)
    tokens = run.trained_tokens
    batches = Batches(store.tokens("train"), run.model.context, run.batch_sequences, run.seed)
    return {
        "run_id": run_identity(run, store.hash),
        "mode": run.model.mode,
        "family": (run.model.preset or "custom").split("/")[0],
        "objective": run.objective.kind,
        "corpus": store.corpus,
        "params_total": parameters.total,
        "params_non_embedding": parameters.non_embedding,
        "tokens": tokens,
        "unique_tokens": batches.unique_tokens(run.steps),
        "epochs": batches.epochs_for(run.steps),
        "batch_tokens": run.batch_tokens,
        "lr": run.optimizer.learning_rate,
        "seed": run.seed,
        "flops_6nd": flops_6nd(parameters.total, tokens),
        "flops_counted": training_flops_per_token(run.model) * tokens,
    }


def make_record(
    run: RunConfig, store: TokenStore, outcome: Outcome, environment: dict[str, Any]
) -> dict[str, Any]:
    """The record, as plain data. A diverged run has no loss, and says after how many steps."""
    done = outcome.status == "done"
    speed = outcome.steps * run.batch_tokens / outcome.seconds
    peak = peak_flops_of_kind(environment["device_kind"])
    rate = speed * training_flops_per_token(run.model)
    bits_per_byte = outcome.loss / (store.bytes_per_token("validation") * math.log(2))
    return describe_run(run, store) | {
        "loss": outcome.loss if done else None,
        "loss_se": outcome.loss_se if done else None,
        "bits_per_byte": bits_per_byte if done else None,
        "status": outcome.status,
        "eval_sequences": outcome.eval_sequences,
        "steps": outcome.steps,
        "seconds": round(outcome.seconds, 3),
        "tokens_per_second": round(speed, 1),
        "mfu": rate / (peak * environment["devices"]) if peak else None,
        "device_kind": environment["device_kind"],
        "devices": environment["devices"],
        "commit": environment["commit"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
