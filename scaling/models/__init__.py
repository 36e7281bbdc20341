"""Transformers in Flax NNX, as pytrees: built by a constructor, called like a function.

The letters that end the names of arrays, one for each axis:

| letter | axis                              | letter | axis                             |
|--------|-----------------------------------|--------|----------------------------------|
| B      | sequence in the batch             | H      | attention head                   |
| T      | position (of the query)           | K      | width within a head              |
| S      | position (of the key)             | F      | hidden width of the feed-forward |
| D      | width of the residual stream      | V      | entry of the vocabulary          |
| P      | width of the embeddings           | E      | expert                           |
| J      | distance between two positions    | C      | slot of an expert                |
| M      | masked token of a sequence        | N      | class                            |

Read transformer.py first, then encoder.py, block.py, attention.py and feed_forward.py. Kernels of
attention and cross-entropy are in kernels/; params.py says what is known of each parameter, and
trainable.py takes the trained ones out of a model.
"""

from scaling.models.electra import Electra
from scaling.models.experts import Routing
from scaling.models.heads import at_positions
from scaling.models.kernels.cross_entropy import cross_entropy
from scaling.models.params import count_by_role
from scaling.models.tokens import Tokens
from scaling.models.transformer import States, Transformer

__all__ = [
    "Electra", "Routing", "States", "Tokens", "Transformer", "at_positions", "count_by_role",
    "cross_entropy",
]
