"""From text to training batches; the modules in the order in which the data pass through them.

    sources        a source string ("text:GLOB", "wheel:NAME", "tfds:NAME") to documents
    seqio          the same for seqio tasks and mixtures, and T5's preprocessors in TensorFlow
    tokenizers     documents to token ids: bytes, trained vocabularies and published ones
    prepare        a corpus to a token store: deduplicate, split, train a tokenizer, tokenize
    synthetic      languages of known entropy, generated when they are read: stores without text
    manifest       the manifest of a token store: options, shards, hashes and counts
    store, splits  token stores opened for reading, and their splits as arrays of token ids
    statistics     unigram counts, entropies and document lengths of a split
    batches        the sequences of each batch, as a function of (store, seed, step, batch size)
    permutation    the keyed shuffle by which an epoch is ordered
    random         random numbers per sequence, for masking and corruption
    run_data       the sequences that a run's objective reads, and checks of its store
    prefetch       batches prepared in a thread while the previous ones train

Reading a store needs numpy alone. TensorFlow, TFDS and seqio are imported only where a corpus of
theirs is read; no module here imports JAX.
"""
