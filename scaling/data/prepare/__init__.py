"""A corpus in, a token store out: scan, choose, learn, tokenize, and put in place in one move.

    pieces        the corpus, cut into pieces of work
    scan          pass 1, parallel: the size and the hashes of every document of a piece
    select        repeated documents, shares of a mix, splits: the fate of every document
    contaminated  if asked for, parallel: test documents of which train has 13 words in a row
    tokenizing    the tokenizer, learnt from the train split; pass 2, parallel: the shards
    assemble      indexes over all shards, and the manifest

No memory grows with the documents: what is known of each lies in files (some 30 bytes, 220 with
near-duplicates, and 12 for each word of the test split where it is searched for), of which a block
or a range of hashes is held at a time. A worker takes 0.1 to 0.35 GB and its longest document; the
command itself 0.4 GB at 10 GB of text, and up to 0.6 GB at 1 TB, while no worker is there. Workers
that look for contamination share a mapped table, of 0.25 GB at 10 GB and 0.5 GB at most. What does
grow is the list of the source's files, and with a tokenizer that is learnt, the distinct words of
its sample (`tokenizing.SAMPLE_BYTES`).

What a process has finished lies in a folder beside the store, so that the next one goes on there.
"""

from scaling.data.prepare.main import prepare
from scaling.data.prepare.making import Progress

__all__ = ["Progress", "prepare"]
