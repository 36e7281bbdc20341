"""Markov chains with a few preferred successors per context, and their exact entropies.

After a context c of `order` tokens the next token is y with probability

    P(y | c) = fresh zipf(y) + (1 - fresh) sum_k weight_k [y = successor_k(c)]

where zipf and weight follow Zipf's law and successor_k(c), for k below `successors`, is sampled
from zipf by a hash of (seed, c). Tokens and their successors are therefore heavy-tailed. Since
fresh > 0, every context can be reached from every other, so the stationary distribution is unique;
every row begins with a context sampled from it.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from scaling.config.base import Count, Fraction, NonNegative, field_error
from scaling.data.random import fold, uniform_double
from scaling.data.synthetic.distributions import (
    AliasTable,
    Floats,
    entropy,
    entropy_terms,
    sample_by_inversion,
    sum_by_index,
    zipf,
)
from scaling.data.synthetic.language import (
    Entropy,
    Language,
    TokenRows,
    VocabSize,
    row_keys,
    table_keys,
)
from scaling.errors import UserError

LARGEST_TABLE = 2**24
"""Largest number of contexts times successors: the table of all of them needs at most 64 MiB."""

STATIONARY = 1e-13
"""Power iteration for the stationary distribution stops when a step moves no more probability than
this. The error is then this divided by the spectral gap, which is at least `fresh` for order 1."""

_STEPS = 10_000
_LONGEST_SEARCH = 2**31  # table entries visited by power iteration at most: under a minute
_CHUNK = 2**20  # table entries processed at a time

PositiveFraction = Annotated[Fraction, Field(gt=0)]


class Chain(Language):
    """A Markov chain with preferred successors."""

    successors: Count
    """Number of preferred successors of a context, K; some may be the same token."""
    exponent: NonNegative = 1.0
    """Exponent of Zipf's law over the tokens."""
    successor_exponent: NonNegative = 1.0
    """Exponent of Zipf's law over the preferred successors of a context."""

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """Number of tokens that the next one depends on."""

    @property
    @abstractmethod
    def fresh(self) -> float:
        """Probability that a token is sampled independently of its context."""

    @model_validator(mode="after")
    def _the_table_is_kept(self) -> Chain:
        contexts = self.vocab_size**self.context_tokens
        if contexts * self.successors > LARGEST_TABLE:
            order = f"^{self.context_tokens}" if self.context_tokens > 1 else ""
            raise field_error(
                "vocab_size",
                f"{self.vocab_size}{order} contexts with {self.successors} successors each are "
                f"{contexts * self.successors:,} entries, but the entropy is only computed for up "
                f"to {LARGEST_TABLE:,}; choose fewer of either"
            )
        return self

    def rows(self, split: str, index: NDArray[np.integer], width: int) -> TokenRows:
        tables = _tables(self)
        order, count, n_preferred = self.context_tokens, len(index), self.successors
        contexts = len(tables.stationary)
        key_B = row_keys(self, split, np.asarray(index))
        state_B = sample_by_inversion(tables.cumulative, uniform_double(fold(key_B, 0), 1)[:, 0])
        later = max(width - order, 0)
        choice_TB = tables.choice.draw(uniform_double(key_B, later)).T
        # Every token is first written as a fresh one; preferred successors then overwrite it.
        looked_up_TB = choice_TB < n_preferred
        place_TB = np.where(looked_up_TB, choice_TB, 0) * contexts
        row_TB = np.empty((order + later, count), np.int32)
        for t in range(order):
            row_TB[t] = state_B // self.vocab_size ** (order - 1 - t) % self.vocab_size
        np.subtract(choice_TB, n_preferred, out=row_TB[order:], casting="unsafe")
        shorter = contexts // self.vocab_size
        flat = tables.successors.reshape(-1)
        place_B, found_B = np.empty(count, np.int64), np.empty(count, np.int32)
        for t in range(later):
            np.add(place_TB[t], state_B, out=place_B)
            np.take(flat, place_B, out=found_B, mode="clip")  # else numpy copies `out`
            np.copyto(row_TB[order + t], found_B, where=looked_up_TB[t])
            if order > 1:
                np.remainder(state_B, shorter, out=state_B)
                np.multiply(state_B, self.vocab_size, out=state_B)
                np.add(state_B, row_TB[order + t], out=state_B)
            else:
                state_B = row_TB[order + t]
        return np.ascontiguousarray(row_TB[:width].T).astype(np.uint32)

    def entropy(self) -> Entropy:
        """Exact: the mean over contexts of the entropy of the next token."""
        rate = _tables(self).rate
        return Entropy.between(rate, rate)

    def floor(self, context: int) -> Entropy:
        """Exact: from the entropy of the first `order` tokens, and the rate for later ones."""
        tables = _tables(self)
        known = min(self.context_tokens, context + 1)
        begin = tables.stationary.reshape(self.vocab_size**known, -1).sum(1)
        first = tables.stationary.reshape(self.vocab_size, -1).sum(1)
        nats = entropy(begin) - entropy(first) + (context + 1 - known) * tables.rate
        return Entropy.between(nats / context, nats / context)


class Markov(Chain):
    """A chain of any order that almost always follows its preferred successors."""

    kind: Literal["markov"] = "markov"
    vocab_size: VocabSize = 512
    order: Annotated[Count, Field(le=24)] = 2
    """Number of tokens that the next one depends on."""
    successors: Count = 8
    smoothing: PositiveFraction = 0.02
    """Probability that a token is sampled independently of its context."""

    @property
    def context_tokens(self) -> int:
        return self.order

    @property
    def fresh(self) -> float:
        return self.smoothing


class ZipfBigram(Chain):
    """A bigram chain over a large vocabulary."""

    kind: Literal["zipf-bigram"] = "zipf-bigram"
    vocab_size: VocabSize = 32_768
    successors: Count = 16
    bigram_share: Annotated[Fraction, Field(lt=1)] = 0.5
    """Fraction of the tokens that are preferred successors of the previous token; the others are
    sampled independently of it."""

    @property
    def context_tokens(self) -> int:
        return 1

    @property
    def fresh(self) -> float:
        return 1 - self.bigram_share


class Tables(NamedTuple):
    """The tables of a chain; a context is an integer, with its first token as highest digit."""

    successors: NDArray[np.int32]
    """Preferred successors of each context, shape [K, contexts]."""
    weight: Floats
    """Probability of each preferred successor, shape [K]; they sum to 1 - fresh."""
    base: Floats
    """Probability of each token as a fresh one, shape [vocab_size]; they sum to `fresh`."""
    choice: AliasTable
    """Samples k < K for a preferred successor, or K plus a fresh token."""
    stationary: Floats
    """Stationary probability of each context, shape [contexts]."""
    cumulative: Floats
    """Cumulative sums of `stationary`, shape [contexts]."""
    rate: float
    """Entropy rate in nats per token."""


@lru_cache(maxsize=4)
def _tables(chain: Chain) -> Tables:
    contexts = chain.vocab_size**chain.context_tokens
    unigram = zipf(chain.vocab_size, chain.exponent)
    base = chain.fresh * unigram
    weight = (1 - chain.fresh) * zipf(chain.successors, chain.successor_exponent)
    successors = np.empty((chain.successors, contexts), np.int32)
    cumulative = np.cumsum(unigram)
    step = max(_CHUNK // chain.successors, 1)
    for start in range(0, contexts, step):
        stop = min(start + step, contexts)
        draws = uniform_double(table_keys(chain, np.arange(start, stop)), chain.successors)
        successors[:, start:stop] = sample_by_inversion(cumulative, draws).T
    stationary = _stationary(chain, successors, weight, base)
    conditional = np.concatenate([
        _conditional_entropy(successors[:, start:start + step], weight, base)
        for start in range(0, contexts, step)
    ])
    choice = AliasTable.of(np.concatenate([weight, base]))
    rate = float(stationary @ conditional)
    return Tables(successors, weight, base, choice, stationary, np.cumsum(stationary), rate)


def _stationary(
    chain: Chain, successors: NDArray[np.int32], weight: Floats, base: Floats
) -> Floats:
    """The stationary distribution of contexts, by power iteration; shape [contexts]."""
    contexts, vocab_size = successors.shape[1], chain.vocab_size
    follows = np.arange(contexts) % (contexts // vocab_size) * vocab_size
    p = np.full(contexts, 1 / contexts)
    steps = min(_STEPS, _LONGEST_SEARCH // successors.size)
    for _ in range(steps):
        new = np.outer(p.reshape(vocab_size, -1).sum(0), base).reshape(-1)
        for k, share in enumerate(weight):
            new += share * sum_by_index(follows + successors[k], p, contexts)
        new /= new.sum()
        moved = float(np.abs(new - p).sum())
        p = new
        if moved <= STATIONARY:
            return p
    raise UserError(
        f"{chain!r}: the stationary distribution has not converged after {steps:,} steps (change "
        f"{moved:.1e}), so the entropy is unknown; choose more successors, or a larger probability "
        "of fresh tokens"
    )


def _conditional_entropy(
    successors: NDArray[np.int32], weight: Floats, base: Floats
) -> Floats:
    """Entropy in nats of the token after each context, shape [contexts].

    The entropy terms of the base distribution are summed once for all contexts, and corrected for
    each distinct preferred successor.
    """
    contexts = successors.shape[1]
    order = np.argsort(successors, axis=0, kind="stable")
    token = np.take_along_axis(successors, order, axis=0).T.reshape(-1)
    context = np.repeat(np.arange(contexts), len(weight))
    begins = np.ones(len(token), bool)
    begins[1:] = (token[1:] != token[:-1]) | (context[1:] != context[:-1])
    start = np.flatnonzero(begins)
    preferred = np.add.reduceat(weight[order].T.reshape(-1), start)
    fresh = base[token[start]]
    change = entropy_terms(fresh + preferred) - entropy_terms(fresh)
    return entropy(base) + sum_by_index(context[start], change, contexts)
