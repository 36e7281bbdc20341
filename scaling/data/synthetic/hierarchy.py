"""A random hierarchical grammar, after the random hierarchy model (Cagnetta et al. 2023, "How deep
neural networks learn compositional data: the random hierarchy model", section 2).

A string is derived from one symbol of the highest level. A symbol of level l has `rules` rules,
each of which rewrites it as `children` symbols of level l - 1; the symbols of level 0 are the
tokens, and a string has children^levels of them. No two rules of a level have the same right side,
so every string has a unique derivation and its probability is a product. Each level has
`vocab_size` symbols, as in the paper. There the roots, the choices of rules and the right sides are
uniform; here all three follow Zipf's law, which makes the tokens heavy-tailed. Rows are
concatenated strings, starting at the beginning of a string.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from scaling.config.base import Count, NonNegative, field_error
from scaling.data.random import fold, uniform_double
from scaling.data.synthetic.distributions import (
    AliasTable,
    Floats,
    Ints,
    entropy,
    sample_by_inversion,
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
from scaling.data.synthetic.prefix import prefix_entropy

LARGEST_GRAMMAR = 2**24
"""Largest number of symbols on the right sides of all rules: their table needs at most 64 MiB."""

_HEAVY_ROUNDS = 16
_LARGEST_CODE = 2**62


class Hierarchy(Language):
    """Concatenated strings of a random grammar."""

    kind: Literal["hierarchy"] = "hierarchy"
    vocab_size: VocabSize = 512
    levels: Annotated[Count, Field(le=16)] = 4
    """Number of levels of rules; a string has children^levels tokens."""
    children: Annotated[Count, Field(ge=2, le=62)] = 2
    """Number of symbols on the right side of a rule."""
    rules: Count = 8
    """Number of rules per symbol."""
    exponent: NonNegative = 1.0
    """Exponent of Zipf's law over the symbols, for roots and right sides."""
    rule_exponent: NonNegative = 1.0
    """Exponent of Zipf's law over the rules of a symbol."""

    @model_validator(mode="after")
    def _rules_are_distinct(self) -> Hierarchy:
        entries = self.vocab_size * self.rules * self.children * self.levels
        if entries > LARGEST_GRAMMAR:
            raise field_error(
                "rules", f"{self.vocab_size} symbols with {self.rules} rules of {self.children} "
                f"children on {self.levels} levels are {entries:,} entries, but at most "
                f"{LARGEST_GRAMMAR:,} are supported; choose fewer of any"
            )
        strings = self.vocab_size**self.children
        if strings > _LARGEST_CODE or self.string_tokens > LARGEST_GRAMMAR:
            raise field_error(
                "children", f"{self.children} children of {self.vocab_size} symbols on "
                f"{self.levels} levels are too many to enumerate; choose fewer of any"
            )
        if 2 * self.vocab_size * self.rules > strings:
            raise field_error(
                "rules", f"{self.vocab_size} symbols with {self.rules} rules each need "
                f"{self.vocab_size * self.rules:,} different right sides, but at most half of the "
                f"{strings:,} that {self.children} symbols can form are used; choose at most "
                f"{strings // (2 * self.vocab_size)} rules, or more children"
            )
        return self

    @property
    def string_tokens(self) -> int:
        """Number of tokens per string."""
        tokens: int = self.children**self.levels
        return tokens

    def rows(self, split: str, index: NDArray[np.integer], width: int) -> TokenRows:
        grammar = _grammar(self)
        key_B = row_keys(self, split, np.asarray(index))
        # No more symbols of a level than the row's tokens come from.
        needed = [-(-width // self.children**level) for level in range(self.levels + 1)]
        symbol_BN = grammar.root.draw(uniform_double(fold(key_B, 0), needed[-1]))
        for level in range(self.levels, 0, -1):
            rule_BN = grammar.rule.draw(uniform_double(fold(key_B, level), needed[level]))
            right = grammar.right_sides[level - 1].reshape(-1, self.children)
            written_BNC = right[symbol_BN * self.rules + rule_BN]
            symbol_BN = written_BNC.reshape(len(index), -1)[:, :needed[level - 1]]
        return symbol_BN.astype(np.uint32)

    def entropy(self) -> Entropy:
        """Exact: the entropy of the root and of all choices of rules, divided by the tokens of a
        string."""
        nats = self._nats(self.string_tokens)[0]
        return Entropy.between(nats / self.string_tokens, nats / self.string_tokens)

    def floor(self, context: int) -> Entropy:
        """Exact if context + 1 tokens are whole strings. Otherwise the last string is truncated,
        and its contribution is exact or bounded, see `prefix_entropy`. The contributions of whole
        strings and of the first token are exact.
        """
        low, high = self._nats(context + 1)
        first, _ = self._nats(1)
        return Entropy.between((low - first) / context, (high - first) / context)

    def _nats(self, tokens: int) -> tuple[float, float]:
        """Bounds on the entropy of the first tokens of a row, in nats."""
        grammar = _grammar(self)
        strings, rest = divmod(tokens, self.string_tokens)
        root, rule = zipf(self.vocab_size, self.exponent), zipf(self.rules, self.rule_exponent)
        # A whole symbol determines its rule; a truncated one is only partly known.
        whole = sum(tokens // self.children**level for level in range(1, self.levels + 1))
        nats = strings * entropy(root) + whole * entropy(rule)
        low, high = prefix_entropy(root, rule, grammar.right_sides, rest)
        return nats + low, nats + high


class Grammar(NamedTuple):
    """The rules of a language."""

    right_sides: tuple[NDArray[np.int32], ...]
    """Right sides of the rules of each level, lowest first: [vocab_size, rules, children]."""
    root: AliasTable
    rule: AliasTable


@lru_cache(maxsize=4)
def _grammar(language: Hierarchy) -> Grammar:
    root = zipf(language.vocab_size, language.exponent)
    return Grammar(
        tuple(_right_sides(language, level, root) for level in range(1, language.levels + 1)),
        AliasTable.of(root), AliasTable.of(zipf(language.rules, language.rule_exponent)),
    )


def _right_sides(language: Hierarchy, level: int, p: Floats) -> NDArray[np.int32]:
    """Distinct right sides for the rules of one level, shape [vocab_size, rules, children].

    A rule whose sample is already used, or was sampled by a rule of lower index in the same round,
    samples again. Short right sides of frequent symbols are soon exhausted, so later rounds sample
    uniformly; at least half of their samples are then unused.
    """
    count, children = language.vocab_size * language.rules, language.children
    cumulative = np.cumsum(p)
    place = language.vocab_size ** np.arange(children)
    pending, used = np.arange(count), np.empty(0, np.int64)
    symbol = np.empty((count, children), np.int32)
    rounds = 0
    while len(pending):
        rounds += 1
        keys = fold(table_keys(language, pending, level), rounds)
        uniform = uniform_double(keys, children)
        draw: Ints = (sample_by_inversion(cumulative, uniform) if rounds <= _HEAVY_ROUNDS
                      else (uniform * language.vocab_size).astype(np.int64))
        code = draw @ place
        first = np.zeros(len(code), bool)
        first[np.unique(code, return_index=True)[1]] = True
        unused = first & ~np.isin(code, used)
        symbol[pending[unused]] = draw[unused]
        used = np.concatenate([used, code[unused]])
        pending = pending[~unused]
    return symbol.reshape(language.vocab_size, language.rules, children)
