"""The record of a run that is over: its row of the runs table, and what it took."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

from scaling.accounting import count_parameters, flops_6nd, run_flops_per_token
from scaling.accounting.hardware import peak_flops_of_kind
from scaling.config import RunConfig, run_identity
from scaling.data.reading import training_batches
from scaling.data.store import TokenStore
from scaling.training.scores import Heldout


class Outcome(NamedTuple):
    """How training ended."""

    status: str
    """"done" or "diverged"."""
    scores: dict[str, Heldout]
    """Held-out losses of the parts of the objective, the first of them nats per predicted token;
    empty if the run diverged."""
    target_entropy: float
    """Entropy of the held-out targets' distribution, nats: what knowing their frequencies alone
    would lose."""
    steps: int
    seconds: float
    """Spent training, compiling and evaluating, over all processes that worked on the run; what a
    trunk took is its own."""
    eval_sequences: int
    branch: dict[str, Any] | None = None
    """Where the run left its trunk, if it has one: `run_id` of the trunk, and `step`."""
    packed: int = 1
    """Runs that trained side by side (training/pack.py); their seconds are the same ones."""


def describe_run(run: RunConfig, store: TokenStore) -> dict[str, Any]:
    """What is known of a run before it is trained: the columns of the runs table that its
    configuration determines. N is the model's (ELECTRA's is its discriminator), counted twice, with
    and without embeddings; D are tokens of text; flops_6nd is 6 N D with all parameters;
    flops_counted counts the matrix products, those of a generator or teacher too."""
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
        "seed": run.seed,
        "flops_6nd": flops_6nd(parameters.total, tokens),
        "flops_counted": run_flops_per_token(run) * tokens,
    }


def make_record(
    run: RunConfig, store: TokenStore, outcome: Outcome, environment: dict[str, Any]
) -> dict[str, Any]:
    """The record, as plain data. A diverged run has no loss, and says after how many steps. What a
    run spent itself and what its trunk spent for it are counted apart."""
    done = outcome.status == "done"
    shared = outcome.branch["step"] if outcome.branch else 0
    speed = (outcome.steps - shared) * run.batch_tokens / outcome.seconds
    peak = peak_flops_of_kind(environment["device_kind"])
    flops = run_flops_per_token(run)
    rate = speed * flops
    first = next(iter(outcome.scores.values())) if done else None
    return describe_run(run, store) | {
        "loss": first.loss if first else None,
        "loss_se": first.error if first else None,
        "bits_per_byte": _bits_per_byte(run, store, first.loss) if first else None,
        **{f"loss_{part}": score.loss if done else None
           for part, score in outcome.scores.items() if len(outcome.scores) > 1},
        "target_entropy": outcome.target_entropy,
        "status": outcome.status,
        "eval_sequences": outcome.eval_sequences,
        "steps": outcome.steps,
        "trunk": outcome.branch,
        "flops_shared": shared * run.batch_tokens * flops,
        "flops_own": (outcome.steps - shared) * run.batch_tokens * flops,
        "packed": outcome.packed,
        "seconds": round(outcome.seconds, 3),
        "tokens_per_second": round(speed, 1),
        "mfu": rate / (peak * environment["devices"]) if peak else None,
        "device_kind": environment["device_kind"],
        "devices": environment["devices"],
        "commit": environment["commit"],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _bits_per_byte(run: RunConfig, store: TokenStore, loss: float) -> float | None:
    """The loss for a byte of text, where every token of the text is predicted."""
    if run.objective.kind != "causal":
        return None
    per_token = store.bytes_per_token("validation")  # no number for a language without text
    return loss / (per_token * math.log(2)) if per_token > 0 else None
