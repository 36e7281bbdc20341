"""A language with structure at every scale, after the random hierarchy model (Cagnetta et al.
2023, "How deep neural networks learn compositional data: the random hierarchy model", section 2).

A string grows from one symbol of the highest level. A symbol of level l has `rules` rules, each of
which writes it as `children` symbols of level l - 1, and level 0 are the tokens; a string has
children^levels of them. No two rules of a level write the same, so that a string has one
derivation and its probability is a product. Each level has `vocab_size` symbols, as in the paper.
There root and rules are uniform and what rules write is drawn uniformly; here all three follow
Zipf's law, for a heavy tail of the tokens. Rows are strings one after the other, from the start of
the first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from scaling.config.base import Count, NonNegative, field_error
from scaling.data.random import fold, uniform_double
from scaling.data.synthetic.distributions import Alias, Floats, Ints, entropy, invert, zipf
from scaling.data.synthetic.language import (
    Entropy,
    Language,
    Tokens,
    Vocabulary,
    row_keys,
    table_keys,
)
from scaling.data.synthetic.prefix import prefix_entropy

LARGEST_GRAMMAR = 2**24
"""Symbols on the right of all rules: a table of them is kept, 64 MiB of it at most."""

_HEAVY_ROUNDS = 16
_LARGEST_CODE = 2**62


class Hierarchy(Language):
    """Strings of a random grammar, one after the other."""

    kind: Literal["hierarchy"] = "hierarchy"
    vocab_size: Vocabulary = 512
    levels: Annotated[Count, Field(le=16)] = 4
    """Levels of rules; a string has children^levels tokens."""
    children: Annotated[Count, Field(ge=2, le=62)] = 2
    """Symbols that a rule writes."""
    rules: Count = 8
    """Rules of a symbol."""
    exponent: NonNegative = 1.0
    """Of Zipf's law over the symbols, for roots and for what rules write."""
    rule_exponent: NonNegative = 1.0
    """Of Zipf's law over the rules of a symbol."""

    @model_validator(mode="after")
    def _rules_are_distinct(self) -> Hierarchy:
        entries = self.vocab_size * self.rules * self.children * self.levels
        if entries > LARGEST_GRAMMAR:
            raise field_error(
                "rules", f"{self.vocab_size} symbols with {self.rules} rules of {self.children} "
                f"children on {self.levels} levels are {entries:,} entries, and at most "
                f"{LARGEST_GRAMMAR:,} are kept; choose fewer of any"
            )
        strings = self.vocab_size**self.children
        if strings > _LARGEST_CODE or self.string_tokens > LARGEST_GRAMMAR:
            raise field_error(
                "children", f"{self.children} children of {self.vocab_size} symbols on "
                f"{self.levels} levels are too many to be told apart; choose fewer of any"
            )
        if 2 * self.vocab_size * self.rules > strings:
            raise field_error(
                "rules", f"{self.vocab_size} symbols with {self.rules} rules each need "
                f"{self.vocab_size * self.rules:,} different right sides, and at most half of the "
                f"{strings:,} that {self.children} symbols can form are taken; choose at most "
                f"{strings // (2 * self.vocab_size)} rules, or more children"
            )
        return self

    @property
    def string_tokens(self) -> int:
        """Tokens of a string."""
        tokens: int = self.children**self.levels
        return tokens

    def rows(self, split: str, index: NDArray[np.integer], width: int) -> Tokens:
        grammar = _grammar(self)
        key_B = row_keys(self, split, np.asarray(index))
        # No more symbols of a level than the row's tokens come from.
        needed = [-(-width // self.children**level) for level in range(self.levels + 1)]
        symbol_BN = grammar.root.draw(uniform_double(fold(key_B, 0), needed[-1]))
        for level in range(self.levels, 0, -1):
            rule_BN = grammar.rule.draw(uniform_double(fold(key_B, level), needed[level]))
            right = grammar.writes[level - 1].reshape(-1, self.children)
            written_BNC = right[symbol_BN * self.rules + rule_BN]
            symbol_BN = written_BNC.reshape(len(index), -1)[:, :needed[level - 1]]
        return symbol_BN.astype(np.uint32)

    def entropy(self) -> Entropy:
        """Exact: the root's entropy and that of every choice of a rule, over the tokens of a
        string."""
        nats = self._nats(self.string_tokens)[0]
        return Entropy.between(nats / self.string_tokens, nats / self.string_tokens)

    def floor(self, context: int) -> Entropy:
        """Exact where context + 1 is whole strings. Else the last string is cut, and its share is
        exact or bounded as `prefix_entropy` says.

        Whole strings and the first token are exact.
        """
        low, high = self._nats(context + 1)
        first, _ = self._nats(1)
        return Entropy.between((low - first) / context, (high - first) / context)

    def _nats(self, tokens: int) -> tuple[float, float]:
        """Bounds on the entropy of the first tokens of a row, in nats."""
        grammar = _grammar(self)
        strings, rest = divmod(tokens, self.string_tokens)
        root, rule = zipf(self.vocab_size, self.exponent), zipf(self.rules, self.rule_exponent)
        # Whatever is whole is known to the rule; what is cut has its siblings to tell of it.
        whole = sum(tokens // self.children**level for level in range(1, self.levels + 1))
        nats = strings * entropy(root) + whole * entropy(rule)
        low, high = prefix_entropy(root, rule, grammar.writes, rest)
        return nats + low, nats + high


class Grammar(NamedTuple):
    """The rules of a language."""

    writes: tuple[NDArray[np.int32], ...]
    """What each rule of a level writes, the lowest level first: [vocab_size, rules, children]."""
    root: Alias
    rule: Alias


@lru_cache(maxsize=4)
def _grammar(language: Hierarchy) -> Grammar:
    root = zipf(language.vocab_size, language.exponent)
    return Grammar(
        tuple(_right_sides(language, level, root) for level in range(1, language.levels + 1)),
        Alias.of(root), Alias.of(zipf(language.rules, language.rule_exponent)),
    )


def _right_sides(language: Hierarchy, level: int, p: Floats) -> NDArray[np.int32]:
    """What the rules of one level write, all different, shape [vocab_size, rules, children].

    A rule whose draw was taken before, or by a rule of a lower number, draws again. Short right
    sides of frequent symbols are used up soon, so that later rounds draw uniformly; then at least
    every other draw is free.
    """
    count, children = language.vocab_size * language.rules, language.children
    cumulative = np.cumsum(p)
    place = language.vocab_size ** np.arange(children)
    waiting, taken = np.arange(count), np.empty(0, np.int64)
    symbol = np.empty((count, children), np.int32)
    rounds = 0
    while len(waiting):
        rounds += 1
        keys = fold(table_keys(language, waiting, level), rounds)
        uniform = uniform_double(keys, children)
        draw: Ints = (invert(cumulative, uniform) if rounds <= _HEAVY_ROUNDS
                      else (uniform * language.vocab_size).astype(np.int64))
        code = draw @ place
        first = np.zeros(len(code), bool)
        first[np.unique(code, return_index=True)[1]] = True
        free = first & ~np.isin(code, taken)
        symbol[waiting[free]] = draw[free]
        taken = np.concatenate([taken, code[free]])
        waiting = waiting[~free]
    return symbol.reshape(language.vocab_size, language.rules, children)
