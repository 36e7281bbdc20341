"""Training batches as a pure function of (store, seed, step, global batch), and what is
evaluated.

Nothing here has a state: a run that resumes at step s asks for step s, and a run on other hosts
asks for other slices of the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.data.permutation import permute
from scaling.data.store import TokenStore
from scaling.errors import UserError

Tokens = NDArray[Any]
"""Token ids of one split, shape [tokens], uint16 or uint32."""


def sequence_count(tokens: int, context: int) -> int:
    """Whole sequences in a split: windows of context + 1 tokens, `context` apart.

    A window's last token is the next one's first, so that every token but the split's first is
    predicted exactly once.
    """
    return max(tokens - 1, 0) // context


def _windows(tokens: Tokens, context: int) -> Tokens:
    """All sequences of a split without a copy: shape [sequences, context + 1]."""
    # The plain array: every view of a memmap would carry the bookkeeping of its class.
    plain = np.asarray(tokens)
    return np.lib.stride_tricks.sliding_window_view(plain, context + 1)[::context]


@dataclass(frozen=True, eq=False)
class Batches:
    """The training batches of one run.

    Sequence i is `tokens[i * context : i * context + context + 1]`: its inputs are all but the
    last token, its targets all but the first. The sequences of each epoch come in an order of
    their own, which (seed, epoch) determines, and the epochs follow each other without a gap: a
    batch may hold the end of one and the start of the next.
    """

    tokens: Tokens
    """One split's tokens, shape [tokens]."""
    context: int
    """Tokens that a sequence predicts."""
    batch_sequences: int
    """Sequences in a batch, over all hosts."""
    seed: int

    def __post_init__(self) -> None:
        for name in ("context", "batch_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not positive")
        _at_least_one_sequence("this split", len(self.tokens), self.context)

    def sequences(self) -> int:
        """Sequences in one epoch."""
        return sequence_count(len(self.tokens), self.context)

    def at(self, step: int, host: int = 0, hosts: int = 1) -> NDArray[np.int32]:
        """One host's part of the batch of one step, at the same cost for every step.

        The parts of all hosts, one after the other, are the batch of a single host.

        Args:
            step: from zero on.
            host: which part.
            hosts: how many parts; it divides `batch_sequences`.

        Returns:
            Token ids, shape [batch_sequences / hosts, context + 1].

        Raises:
            UserError: the batch cannot be divided evenly.
            ValueError: there is no such step or host.
        """
        if step < 0 or not 0 <= host < hosts:
            raise ValueError(f"there is no step {step} of host {host} among {hosts}")
        share, rest = divmod(self.batch_sequences, hosts)
        if rest:
            raise UserError(
                f"batch_sequences = {self.batch_sequences} cannot be divided among {hosts} hosts; "
                f"choose a multiple of {hosts}"
            )
        first = step * self.batch_sequences + host * share
        return self._all_sequences[self._shuffled(first, share)].astype(np.int32)

    def epoch(self, step: int) -> int:
        """The epoch that the first sequence of a step belongs to, from zero on."""
        return step * self.batch_sequences // self.sequences()

    def epochs_for(self, steps: int) -> float:
        """How often so many steps read the split."""
        return steps * self.batch_sequences / self.sequences()

    def unique_tokens(self, steps: int) -> int:
        """Predicted tokens among those of so many steps that are not repeated ones."""
        return min(steps * self.batch_sequences, self.sequences()) * self.context

    @cached_property
    def _all_sequences(self) -> Tokens:
        return _windows(self.tokens, self.context)

    def _shuffled(self, first: int, count: int) -> NDArray[np.int64]:
        """Which sequences the places from `first` on of the endless order hold, shape [count]."""
        n = self.sequences()
        parts = []
        while count > 0:  # once for each epoch that the places touch
            epoch, place = divmod(first, n)
            here = min(count, n - place)
            parts.append(permute(np.arange(place, place + here), n, self.seed, epoch))
            first, count = first + here, count - here
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def evaluation_sequences(store: TokenStore, context: int, count: int) -> NDArray[np.int32]:
    """Sequences of the validation split that lie evenly over it: the same on every call.

    Returns:
        Token ids, shape [min(count, what there is), context + 1].

    Raises:
        UserError: the split does not hold one sequence.
    """
    windows = _windows_of(store, "validation", context)
    chosen = min(count, len(windows))
    return windows[np.arange(chosen) * len(windows) // chosen].astype(np.int32)


def check_fits(store: TokenStore, context: int, tokens: int, epochs: int = 1) -> None:
    """Refuse a run that its store cannot feed.

    Args:
        store: the token store.
        context: tokens that a sequence predicts.
        tokens: training tokens of the run.
        epochs: how often the training split may be read.

    Raises:
        UserError: a split is shorter than a sequence, or the run needs more tokens than the
            epochs hold.
    """
    for split in ("train", "validation"):
        held = store.manifest.split(split).tokens
        _at_least_one_sequence(f"the {split} split of {store.path}", held, context)
    once = sequence_count(store.manifest.train.tokens, context) * context
    if tokens > epochs * once:
        raise UserError(
            f"{store.path}: the run needs {tokens:,} tokens, and one epoch of context-{context} "
            f"sequences holds {once:,}; lower `tokens` to {epochs * once:,}, prepare more text, or "
            f"set data.epochs to {-(-tokens // once)}"
        )


def _windows_of(store: TokenStore, split: str, context: int) -> Tokens:
    tokens = store.tokens(split)
    _at_least_one_sequence(f"the {split} split of {store.path}", len(tokens), context)
    return _windows(tokens, context)


def _at_least_one_sequence(what: str, tokens: int, context: int) -> None:
    if not sequence_count(tokens, context):
        raise UserError(
            f"a sequence longer than the split holds: {what} has {tokens:,} tokens, and a "
            f"sequence of context {context} takes {context + 1:,}; choose a shorter context, or "
            "prepare more text"
        )
