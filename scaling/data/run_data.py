"""The data of a run: the sequences and special tokens that its objective needs of its store, and
checks that the store has them. JAX is not imported, so that planning stays fast."""

from __future__ import annotations

from scaling.config import RunConfig
from scaling.data.batches import Batches, DocumentChunks, SequenceDataset, Windows
from scaling.data.splits import TokenSplit
from scaling.data.store import TokenStore
from scaling.errors import UserError


def sequences_of(run: RunConfig, split: TokenSplit) -> SequenceDataset:
    """The sequences of a split that a run reads: windows of text, one token longer for a decoder;
    or chunks of documents, if the objective takes pairs of segments from them."""
    length = run.sequence_tokens
    if run.objective.reads_documents:
        return DocumentChunks(split, length)
    return Windows(split, length, length + run.objective.lookahead)


def training_batches(run: RunConfig, store: TokenStore) -> Batches:
    """The batches of the train split that a run is trained on.

    Raises:
        UserError: The model has fewer token ids than the store.
    """
    check_vocabulary(run, store)
    return Batches(sequences_of(run, store.split("train")), run.batch_sequences, run.seed)


def check_vocabulary(run: RunConfig, store: TokenStore) -> None:
    """Check that the model has at least as many token ids as its store.

    Raises:
        UserError: It has fewer.
    """
    if run.model.vocab_size is not None and run.model.vocab_size < store.vocab_size:
        raise UserError(
            f"model.vocab_size = {run.model.vocab_size} is smaller than the {store.vocab_size} "
            f"token ids of {store.path}; leave it out to use that of the store"
        )


def check_fits(run: RunConfig, store: TokenStore) -> None:
    """Check that a store has everything that a run needs.

    Raises:
        UserError: A special token is missing, a split is shorter than a sequence, there are too few
            held-out sequences, or the run needs more tokens than its epochs have.
    """
    _check_special(run, store)
    length = run.sequence_tokens
    counts = {}
    for name in ("train", "validation"):
        split = store.split(name)
        counts[name] = len(sequences_of(run, split))
        if not counts[name]:
            raise UserError(
                f"the {name} split of {store.path} is shorter than a sequence: it has "
                f"{split.tokens:,} tokens, but a sequence has {length:,}; choose a shorter "
                "context, or prepare more text"
            )
    if min(counts["validation"], run.evaluation.sequences) < 2:
        raise UserError(
            f"{store.path}: {counts['validation']} held-out sequence(s) of {length} tokens, and "
            f"evaluation.sequences = {run.evaluation.sequences}; a standard error needs at least 2"
        )
    check_epochs(run, store)


def check_epochs(run: RunConfig, store: TokenStore) -> None:
    """Check that a run needs no more tokens than its epochs have.

    Raises:
        UserError: It needs more.
    """
    length = run.sequence_tokens
    once = len(sequences_of(run, store.split("train"))) * length
    if run.trained_tokens > run.data.epochs * once:
        raise UserError(
            f"{store.path}: the run needs {run.trained_tokens:,} tokens, but one epoch of "
            f"{length}-token sequences has {once:,}; lower `tokens` to "
            f"{run.data.epochs * once:,}, prepare more text, or set data.epochs to "
            f"{-(-run.trained_tokens // once)}"
        )


def special_options(run: RunConfig) -> str:
    """Options of `scaling data prepare` for the special tokens that the objective of a run uses;
    empty if it uses none."""
    roles = run.objective.special_roles()
    sentinels = run.objective.n_sentinels(run.model)
    options = [f"--special {','.join(roles)}"] if roles else []
    return " ".join([*options, *([f"--sentinels {sentinels}"] if sentinels else [])])


def store_of(run: RunConfig) -> TokenStore:
    """Open the store of a run.

    Raises:
        UserError: There is none, or it is damaged; the message has the command that prepares one
            with the special tokens that the objective of the run uses.
    """
    return TokenStore.open(run.data.store, options=special_options(run))


def _check_special(run: RunConfig, store: TokenStore) -> None:
    special, sentinels = store.manifest.special, run.objective.n_sentinels(run.model)
    roles = run.objective.special_roles()
    missing = [role for role in roles if getattr(special, role) is None]
    if not missing and len(special.sentinels) >= sentinels:
        return
    lacks = f"no {' and no '.join(f'<{role}>' for role in missing)}" if missing else (
        f"{len(special.sentinels)} of the {sentinels} sentinels")
    raise UserError(f"{store.path}: its vocabulary has {lacks}, which the objective "
                    f"{run.objective.kind} uses; prepare the text again in another folder, with "
                    f"{special_options(run)}")
