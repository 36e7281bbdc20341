"""How a run reads a store: what its objective asks of it, and whether there is enough. No JAX here,
so that planning stays quick."""

from __future__ import annotations

from typing import get_args

from scaling.config import RunConfig
from scaling.config.objectives import (
    Causal,
    Denoising,
    Distillation,
    Masked,
    Mixture,
    Objective,
    Prefix,
    ReplacedTokens,
    SpanCorruption,
    text_tokens,
)
from scaling.config.spans import Mode, noise_counts
from scaling.data.batches import Batches, Pieces, Sequences, Windows
from scaling.data.splits import TokenSplit
from scaling.data.store import TokenStore
from scaling.errors import UserError

MODES: tuple[Mode, ...] = get_args(Mode)
"""UL2's modes; the last sentinels of a vocabulary stand for them."""


def sequences_of(run: RunConfig, split: TokenSplit) -> Sequences:
    """The sequences of a split that a run reads: windows of text, for a decoder with the token that
    follows; or pieces of documents where two segments are cut from each."""
    objective, length = run.objective, run.sequence_tokens
    if isinstance(objective, Masked) and objective.pairs != "none":
        return Pieces(split, length)
    return Windows(split, length, length + isinstance(objective, Causal | Prefix))


def training_batches(run: RunConfig, store: TokenStore) -> Batches:
    """Which sequences of the train split each step reads."""
    return Batches(sequences_of(run, store.split("train")), run.batch_sequences, run.seed)


def check_fits(run: RunConfig, store: TokenStore) -> None:
    """Refuse a run that its store cannot feed.

    Raises:
        UserError: a special token is missing, a split is shorter than a sequence, there are too few
            held-out sequences, or the run needs more tokens than its epochs hold.
    """
    _check_special(run, store)
    length = run.sequence_tokens
    counts = {}
    for name in ("train", "validation"):
        split = store.split(name)
        counts[name] = len(sequences_of(run, split))
        if not counts[name]:
            raise UserError(
                f"a sequence longer than the split holds: the {name} split of {store.path} has "
                f"{split.tokens:,} tokens, and a sequence takes {length:,}; choose a shorter "
                "context, or prepare more text"
            )
    if min(counts["validation"], run.evaluation.sequences) < 2:
        raise UserError(
            f"{store.path}: {counts['validation']} held-out sequence(s) of {length} tokens, and "
            f"evaluation.sequences = {run.evaluation.sequences}; a standard error needs at least 2"
        )
    check_epochs(run, store)


def check_epochs(run: RunConfig, store: TokenStore) -> None:
    """Refuse a run that needs more tokens than its epochs hold.

    Raises:
        UserError: it does.
    """
    length = run.sequence_tokens
    once = len(sequences_of(run, store.split("train"))) * length
    if run.trained_tokens > run.data.epochs * once:
        raise UserError(
            f"{store.path}: the run needs {run.trained_tokens:,} tokens, and one epoch of "
            f"{length}-token sequences holds {once:,}; lower `tokens` to "
            f"{run.data.epochs * once:,}, prepare more text, or set data.epochs to "
            f"{-(-run.trained_tokens // once)}"
        )


def roles_of(objective: Objective) -> tuple[str, ...]:
    """Roles of the special tokens that an objective writes, beside the end of a document."""
    if isinstance(objective, Masked):
        return ("cls", "sep", "mask") + (("pad",) if objective.pairs != "none" else ())
    if isinstance(objective, ReplacedTokens | Distillation):
        return ("cls", "sep", "mask")
    if isinstance(objective, Denoising):
        return ("cls", "mask", "pad")
    return ("pad",) if isinstance(objective, SpanCorruption | Mixture) else ()


def sentinels_of(run: RunConfig) -> int:
    """Sentinels that a run's objective writes."""
    objective, length = run.objective, text_tokens(run.objective, run.model)
    if isinstance(objective, SpanCorruption):
        return noise_counts(length, objective.rate, objective.mean_span)[1]
    if isinstance(objective, Mixture):
        spans = (noise_counts(length, d.rate, d.mean_span)[1]
                 for d in objective.denoisers if d.mean_span is not None)
        return max(spans, default=1) + len(MODES)
    return 0


def _check_special(run: RunConfig, store: TokenStore) -> None:
    special, sentinels = store.manifest.special, sentinels_of(run)
    roles = roles_of(run.objective)
    missing = [role for role in roles if getattr(special, role) is None]
    if not missing and len(special.sentinels) >= sentinels:
        return
    options = f"--special {','.join(roles)}" if roles else ""
    options += f" --sentinels {sentinels}" if sentinels else ""
    lacks = f"no {' and no '.join(f'<{role}>' for role in missing)}" if missing else (
        f"{len(special.sentinels)} of the {sentinels} sentinels")
    raise UserError(f"{store.path}: its vocabulary has {lacks}, which the objective "
                    f"{run.objective.kind} writes; prepare the text again, elsewhere, with "
                    f"{options.strip()}")
