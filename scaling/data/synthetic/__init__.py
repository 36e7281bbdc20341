"""Languages that are made up: any vocabulary, any amount, and an entropy that is known."""

from scaling.data.synthetic.chain import Markov, ZipfBigram
from scaling.data.synthetic.hierarchy import Hierarchy
from scaling.data.synthetic.language import Entropy, Language
from scaling.data.synthetic.parse import AnyLanguage, parse_language

__all__ = [
    "AnyLanguage", "Entropy", "Hierarchy", "Language", "Markov", "ZipfBigram", "parse_language",
]
