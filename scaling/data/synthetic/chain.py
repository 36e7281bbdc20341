"""Languages that are Markov chains with few favoured successors, and their exact entropies.

After a context c of `order` tokens the next token is y with probability

    P(y | c) = fresh zipf(y) + (1 - fresh) sum_k weight_k [y = successor_k(c)]

where zipf and weight are Zipf's laws and successor_k(c) is a draw from zipf that a hash of
(seed, c) makes, for k below `successors`. Tokens therefore follow a heavy tail, and so do their
sequels. As fresh > 0 every context can follow every other, and there is one stationary
distribution; every row begins with a context drawn from it.
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
    Alias,
    Floats,
    entropy,
    invert,
    sums,
    surprise,
    zipf,
)
from scaling.data.synthetic.language import (
    Entropy,
    Language,
    Tokens,
    Vocabulary,
    row_keys,
    table_keys,
)
from scaling.errors import UserError

LARGEST_TABLE = 2**24
"""Contexts times successors: a table of them all is kept, 64 MiB of it at most."""

STATIONARY = 1e-13
"""The stationary distribution is found when a step of the chain moves no more probability; it is
then off by that over the gap below the first eigenvalue, which is at least `fresh` for order 1."""

_STEPS = 10_000
_LONGEST_SEARCH = 2**31  # entries of the table that are gone through for it, under a minute
_CHUNK = 2**20  # entries of the table that are looked at together

PositiveFraction = Annotated[Fraction, Field(gt=0)]


class Chain(Language):
    """A Markov chain with favoured successors."""

    successors: Count
    """Favoured sequels of a context, K; some may be the same token."""
    exponent: NonNegative = 1.0
    """Of Zipf's law over the tokens."""
    successor_exponent: NonNegative = 1.0
    """Of Zipf's law over the favoured sequels of a context."""

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """Tokens that the next one depends on."""

    @property
    @abstractmethod
    def fresh(self) -> float:
        """Probability that a token is drawn without regard to its context."""

    @model_validator(mode="after")
    def _the_table_is_kept(self) -> Chain:
        contexts = self.vocab_size**self.context_tokens
        if contexts * self.successors > LARGEST_TABLE:
            order = f"^{self.context_tokens}" if self.context_tokens > 1 else ""
            raise field_error(
                "vocab_size",
                f"{self.vocab_size}{order} contexts with {self.successors} successors each are "
                f"{contexts * self.successors:,} entries, and the entropy is exact for up to "
                f"{LARGEST_TABLE:,}; choose fewer of either"
            )
        return self

    def rows(self, split: str, index: NDArray[np.integer], width: int) -> Tokens:
        tables = _tables(self)
        order, count, favoured = self.context_tokens, len(index), self.successors
        contexts = len(tables.stationary)
        key_B = row_keys(self, split, np.asarray(index))
        state_B = invert(tables.cumulative, uniform_double(fold(key_B, 0), 1)[:, 0])
        later = max(width - order, 0)
        choice_TB = tables.choice.draw(uniform_double(key_B, later)).T
        # Every token is written as if it were fresh; those that are not are looked up after that.
        looked_up_TB = choice_TB < favoured
        place_TB = np.where(looked_up_TB, choice_TB, 0) * contexts
        row_TB = np.empty((order + later, count), np.int32)
        for t in range(order):
            row_TB[t] = state_B // self.vocab_size ** (order - 1 - t) % self.vocab_size
        np.subtract(choice_TB, favoured, out=row_TB[order:], casting="unsafe")
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
        """Exact: the mean over contexts of the entropy of what follows."""
        rate = _tables(self).rate
        return Entropy.between(rate, rate)

    def floor(self, context: int) -> Entropy:
        """Exact: up to the order by the entropy of the first tokens, from there on the rate."""
        tables = _tables(self)
        known = min(self.context_tokens, context + 1)
        begin = tables.stationary.reshape(self.vocab_size**known, -1).sum(1)
        first = tables.stationary.reshape(self.vocab_size, -1).sum(1)
        nats = entropy(begin) - entropy(first) + (context + 1 - known) * tables.rate
        return Entropy.between(nats / context, nats / context)


class Markov(Chain):
    """A chain of any order that hardly ever leaves its favoured successors."""

    kind: Literal["markov"] = "markov"
    vocab_size: Vocabulary = 512
    order: Annotated[Count, Field(le=24)] = 2
    """Tokens that the next one depends on."""
    successors: Count = 8
    smoothing: PositiveFraction = 0.02
    """Probability that a token is drawn without regard to its context."""

    @property
    def context_tokens(self) -> int:
        return self.order

    @property
    def fresh(self) -> float:
        return self.smoothing


class ZipfBigram(Chain):
    """Words of a large vocabulary, each with the favoured sequels of the word before it."""

    kind: Literal["zipf-bigram"] = "zipf-bigram"
    vocab_size: Vocabulary = 32_768
    successors: Count = 16
    bigram_share: Annotated[Fraction, Field(lt=1)] = 0.5
    """Share of the tokens that the one before them chooses; the others are fresh draws."""

    @property
    def context_tokens(self) -> int:
        return 1

    @property
    def fresh(self) -> float:
        return 1 - self.bigram_share


class Tables(NamedTuple):
    """What a chain is made of; a context is a number, its first token the highest digit."""

    successors: NDArray[np.int32]
    """The favoured sequels of each context, shape [K, contexts]."""
    weight: Floats
    """Probability of each, before fresh draws are added, shape [K]; 1 - fresh in all."""
    base: Floats
    """Probability of each fresh draw, shape [vocab_size]; `fresh` in all."""
    choice: Alias
    """Draws a favoured place, or K plus a token."""
    stationary: Floats
    """Probability of each context, shape [contexts]."""
    cumulative: Floats
    """Its sums, shape [contexts]."""
    rate: float
    """Nats per token."""


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
        successors[:, start:stop] = invert(cumulative, draws).T
    stationary = _stationary(chain, successors, weight, base)
    conditional = np.concatenate([
        _conditional_entropy(successors[:, start:start + step], weight, base)
        for start in range(0, contexts, step)
    ])
    choice = Alias.of(np.concatenate([weight, base]))
    rate = float(stationary @ conditional)
    return Tables(successors, weight, base, choice, stationary, np.cumsum(stationary), rate)


def _stationary(
    chain: Chain, successors: NDArray[np.int32], weight: Floats, base: Floats
) -> Floats:
    """The distribution of contexts that a step of the chain leaves as it is, shape [contexts]."""
    contexts, vocab_size = successors.shape[1], chain.vocab_size
    follows = np.arange(contexts) % (contexts // vocab_size) * vocab_size
    p = np.full(contexts, 1 / contexts)
    steps = min(_STEPS, _LONGEST_SEARCH // successors.size)
    for _ in range(steps):
        new = np.outer(p.reshape(vocab_size, -1).sum(0), base).reshape(-1)
        for k, share in enumerate(weight):
            new += share * sums(follows + successors[k], p, contexts)
        new /= new.sum()
        moved = float(np.abs(new - p).sum())
        p = new
        if moved <= STATIONARY:
            return p
    raise UserError(
        f"{chain!r}: after {steps:,} steps {moved:.1e} of the probability still moves, so the "
        "entropy is not known; choose more fresh draws, or more successors"
    )


def _conditional_entropy(
    successors: NDArray[np.int32], weight: Floats, base: Floats
) -> Floats:
    """Nats of the token after each context, shape [contexts].

    Where no favoured sequel is met P is the base, whose terms are summed once for all contexts;
    those of the sequels are put right, each distinct token once.
    """
    contexts = successors.shape[1]
    order = np.argsort(successors, axis=0, kind="stable")
    token = np.take_along_axis(successors, order, axis=0).T.reshape(-1)
    context = np.repeat(np.arange(contexts), len(weight))
    begins = np.ones(len(token), bool)
    begins[1:] = (token[1:] != token[:-1]) | (context[1:] != context[:-1])
    start = np.flatnonzero(begins)
    favoured = np.add.reduceat(weight[order].T.reshape(-1), start)
    plain = base[token[start]]
    change = surprise(plain + favoured) - surprise(plain)
    return entropy(base) + sums(context[start], change, contexts)
