"""Text to token ids and back: bytes, vocabularies learnt from the corpus, and published ones.

Each has `eos`, which follows every document, and the special tokens that were asked for. No text
encodes to them, not even text that spells them.
"""

from scaling.data.tokenizers.base import (
    BYTES,
    LARGEST_VOCABULARY,
    SMALLEST_VOCABULARY,
    TOKENIZER_FILE,
    DType,
    Ids,
    Kind,
    Tokenizer,
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
    "DType", "Ids", "Kind", "SentencePieceTokenizer", "SubwordTokenizer", "Tokenizer",
    "dtype_name", "load_tokenizer", "read_tokenizer", "token_dtype", "train_tokenizer",
]
