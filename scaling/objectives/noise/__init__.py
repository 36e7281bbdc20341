"""Noise functions of objectives: corruption, masking and pairing of text, in numpy.

    masking.py    masked tokens and words (BERT)
    spanbert.py   masked spans, and their boundaries (SpanBERT)
    pairs.py      segment pairs for next-sentence and sentence-order prediction
    spans.py      span corruption (T5)
    denoising.py  five noise functions (BART)
    mixture.py    mixtures of denoisers (UL2)
    prefix.py     prefixes
    rows.py       rows of different lengths, padded
    keys.py       random numbers by sequence
"""
