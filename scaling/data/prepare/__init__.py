"""The prepare stage: turns a corpus into a token store.

    main           `prepare`: validates the options, locks the store, moves the result into place
    pipeline       the steps below in order, each resumed if an earlier attempt was interrupted
    pieces         the corpus divided into pieces of work
    scan           pass 1, parallel: size and hashes of every document of a piece
    select         the decision of every document: duplicate, left out, or a split
    contamination  optional, parallel: test documents that share 13 words in a row with train
    tokenizing     the tokenizer, trained on the train split; pass 2, parallel: the shards
    assemble       the index of each split, and its record for the manifest
    workers, work, atomic_folder   worker processes, the work folder, lock and atomic move
    shingles, minhash, ngram_filter, external_sort   hashes of words, and searching among them

Memory does not grow with the number of documents: per-document data is in files (about 30 bytes,
220 with near-duplicates, and 12 per word of the test split with the contamination search), and only
a block of documents or a range of hashes is in memory at a time. A worker needs 0.1 to 0.35 GB plus
its longest document, at most a file of 256 MiB (`sources.files.LARGEST_TEXT`) or a line of 64 MiB
(`sources.jsonl.LONGEST_LINE`). The main process needs 0.4 GB for 10 GB of text and up to 0.6 GB for
1 TB, at times when no workers run. Workers of the contamination search share a memory-mapped
filter of 0.25 GB for 10 GB of text and at most 0.5 GB. Only two things do grow: the list of the
source's files and, if a tokenizer is trained, the distinct words of its sample
(`tokenizing.SAMPLE_BYTES`).

Finished steps are kept in a work folder next to the store, from which the next attempt resumes.
"""

from scaling.data.prepare.main import prepare
from scaling.data.prepare.pipeline import ProgressCallback

__all__ = ["ProgressCallback", "prepare"]
