"""Synthetic languages: token sequences of any vocabulary and length, with a known entropy.

    language.py             the base class
    chain.py                Markov chains
    hierarchy.py, prefix.py a random grammar, and the entropy of a prefix of its strings
    distributions.py        Zipf's law, entropies, sampling
    parse.py                source strings of languages
"""

from scaling.data.synthetic.chain import Markov, ZipfBigram
from scaling.data.synthetic.hierarchy import Hierarchy
from scaling.data.synthetic.language import Entropy, Language
from scaling.data.synthetic.parse import AnyLanguage, parse_language

__all__ = [
    "AnyLanguage", "Entropy", "Hierarchy", "Language", "Markov", "ZipfBigram", "parse_language",
]
