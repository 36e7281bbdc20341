"""What every objective declares about itself, so that no other code depends on its kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from scaling.config.base import Config, Fraction, Problem
from scaling.config.model import ModelConfig

OpenFraction = Annotated[Fraction, Field(gt=0, lt=1)]

# Devlin et al. 2018, section 3.1; the rate is that of ELECTRA, DistilBERT and T5 too.
RATE, MASK_SHARE, RANDOM_SHARE = 0.15, 0.8, 0.1


class ObjectiveConfig(Config):
    """Base of the objectives: their demands on model and text, and their cost.

    A subclass has a `kind`, and overrides what differs from the defaults here.
    """

    mode: ClassVar[str]
    """Mode of the models that it trains."""
    head: ClassVar[str]
    """Head that it needs."""
    lookahead: ClassVar[int] = 0
    """Tokens of a sequence after those that the model reads: its last targets."""
    kind: str

    def text_tokens(self, model: ModelConfig) -> int:
        """Tokens of text per sequence, which are counted as training tokens.

        For a decoder these are the tokens that it predicts; otherwise the tokens that fit in a
        sequence in addition to the special ones. For pairs of segments and for documents that end
        early it is the maximum.

        Raises:
            ValueError: no text fits.
        """
        raise NotImplementedError

    def n_predictions(self, model: ModelConfig) -> int:
        """Number of positions of a sequence at which the vocabulary heads are computed."""
        return model.context

    @property
    def reads_documents(self) -> bool:
        """Whether sequences are chunks of documents, instead of windows of the whole text."""
        return False

    def special_roles(self) -> tuple[str, ...]:
        """Roles of the special tokens that it uses, in addition to the end of a document."""
        return ()

    def n_sentinels(self, model: ModelConfig) -> int:
        """Number of sentinels that it uses."""
        return 0

    @property
    def needs_word_starts(self) -> bool:
        """Whether it needs to know which tokens begin a word."""
        return False

    @property
    def needs_sentence_ends(self) -> bool:
        """Whether it needs to know which tokens end a sentence."""
        return False

    def generator(self, model: ModelConfig) -> ModelConfig | None:
        """Configuration of a generator that is trained with the model; None without one.

        Raises:
            PydanticCustomError: no valid model has the requested size.
        """
        return None

    @property
    def teacher_folder(self) -> Path | None:
        """Run folder of a teacher; None without one."""
        return None

    @property
    def teacher_identity(self) -> str | None:
        """Identity of the teacher's run, once it is known."""
        return None

    @property
    def compares_hidden_states(self) -> bool:
        """Whether the hidden states of model and teacher are compared, and need equal widths."""
        return False

    def evaluated_models(self) -> tuple[ModelConfig, ...]:
        """Further models whose forward pass every training step computes."""
        return ()

    def with_teacher(self, identity: str, model: ModelConfig) -> ObjectiveConfig:
        """The objective with the identity and the model of its teacher."""
        raise NotImplementedError

    @classmethod
    def missing_lengths(
        cls, objective: Mapping[str, Any], given: Mapping[str, Any], shape: Mapping[str, Any]
    ) -> dict[str, int]:
        """Lengths of the model that follow from the objective and are not given.

        Args:
            objective: plain data of the objective.
            given: plain data of the model.
            shape: the same with the values of its preset.
        """
        return {}

    def model_problems(self, model: ModelConfig) -> Iterator[Problem]:
        """Problems of a model of the right mode, in addition to its head and its lengths."""
        return iter(())


def length_of(value: Any, most: int) -> int:
    """A length from plain data; 0 if it is not one, which the model's own field reports."""
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if whole and 0 < value <= most and value == int(value) else 0
