"""A corpus in, a token store out: scan, choose, learn, tokenize, and put in place in one move.

    pieces        the corpus, cut into pieces of work
    scan          pass 1, parallel: the size and the hashes of every document of a piece
    select        repeated documents, shares of a mix, splits: the fate of every document
    contaminated  if asked for, parallel: test documents of which train has 13 words in a row
    tokenizing    the tokenizer, learnt from the train split; pass 2, parallel: the shards
    assemble      indexes over all shards, and the manifest

What a process has finished lies in a folder beside the store, so that the next one goes on there.
"""

from scaling.data.prepare.main import prepare
from scaling.data.prepare.making import Progress

__all__ = ["Progress", "prepare"]
