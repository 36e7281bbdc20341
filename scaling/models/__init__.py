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

Read transformer.py first, then tower.py, block.py, attention.py and feed_forward.py.
"""

from scaling.models.electra import Electra
from scaling.models.experts import Routing
from scaling.models.tokens import Tokens
from scaling.models.transformer import States, Transformer

__all__ = ["Electra", "Routing", "States", "Tokens", "Transformer"]
