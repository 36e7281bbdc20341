"""Tokenizers: bytes, vocabularies trained on the corpus, and published ones.

    base.py            the `Tokenizer` protocol
    special.py         special tokens: roles, spellings and ids
    bytes.py           the byte tokenizer
    subwords.py        BPE, WordPiece and Unigram; recipes.py has their definitions
    train.py           a vocabulary trained on the corpus
    read.py            vocabularies from files
    ranks.py           GPT-2's file of ranks (tiktoken); byte_level.py has its map of bytes
    sentence_piece.py  SentencePiece files

Each has `eos`, which ends every document, and any other special tokens that were requested. No text
is encoded to them, not even text that spells them.
"""

from scaling.data.tokenizers.base import (
    BYTES,
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    TOKENIZER_FILE,
    DType,
    TokenIds,
    Tokenizer,
    TokenizerKind,
    dtype_name,
    token_dtype,
)
from scaling.data.tokenizers.bytes import ByteTokenizer
from scaling.data.tokenizers.read import load_tokenizer, read_tokenizer
from scaling.data.tokenizers.sentence_piece import SentencePieceTokenizer
from scaling.data.tokenizers.subwords import SubwordTokenizer
from scaling.data.tokenizers.train import train_tokenizer

__all__ = [
    "BYTES", "LARGEST_VOCABULARY", "SMALLEST_VOCABULARY", "TOKENIZER_FILE", "ByteTokenizer",
    "DType", "SentencePieceTokenizer", "SubwordTokenizer", "TokenIds", "Tokenizer",
    "TokenizerKind", "dtype_name", "load_tokenizer", "read_tokenizer", "token_dtype",
    "train_tokenizer",
]
