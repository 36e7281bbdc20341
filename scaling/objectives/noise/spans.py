"""Span corruption: spans of a text are replaced by one sentinel each, and the targets are the
removed spans (Raffel et al. 2019, "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer", section 3.1.4).

    text      I love this red car
    inputs    I <X> this <Y>
    targets   <X> love <Y> red car
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaling.config.spans import noise_counts
from scaling.errors import UserError
from scaling.objectives.noise.keys import UInt64, below, bits, distinct, fold
from scaling.objectives.noise.rows import Bool, Ids, Integers, first, pack, ranks

_ROLL = 1  # stream of the rotation; the partition uses the key itself


def noise_mask(
    key_B: UInt64, length: int, rate: float, mean_span: float, *, roll: bool = False
) -> Bool:
    """T5's noise mask: a random partition into spans.

    Every row has the counts of `noise_counts`. Kept tokens and noise are each partitioned into the
    same number of spans, uniformly at random, and the spans alternate, beginning with a kept one.

    Args:
        key_B: a key for each row.
        length: tokens of each text, at least 2.
        rate: share of the text that is noise, from 0 to below 1.
        mean_span: mean tokens of a span of noise, at least 1.
        roll: rotate each mask by a random offset; noise may then be at both ends.

    Returns:
        True for noise, shape [B, length].

    Raises:
        ValueError: see `noise_counts`.
    """
    noise, spans = noise_counts(length, rate, mean_span)
    rows = len(key_B)
    if not spans:
        return np.zeros((rows, length), np.bool_)
    kept = length - noise
    random = bits(key_B, length - 2)
    kept_ends = _ends(random[:, : kept - 1], spans)
    noise_ends = _ends(random[:, kept - 1 :], spans)
    # Starts and ends of noise; the last span ends with the row.
    edges = np.zeros((rows, length), np.int8)
    row = np.arange(rows)[:, None]
    begins = kept_ends.copy()
    begins[:, 1:] += noise_ends[:, :-1]
    edges[row, begins] = 1
    edges[row, kept_ends[:, :-1] + noise_ends[:, :-1]] = -1
    mask = np.cumsum(edges, axis=1, dtype=np.int8).view(np.bool_)
    if not roll:
        return mask
    shift = below(fold(key_B, _ROLL), 1, length)
    return np.take_along_axis(mask, (np.arange(length) - shift) % length, axis=1)


def corrupt_spans(
    ids_BT: Integers,
    mask_BT: Bool,
    sentinels: Integers,
    eos: int | None,
    pad: int,
    *,
    final_sentinel: bool = False,
    widths: tuple[int, int] | None = None,
) -> tuple[Ids, Ids]:
    """Replace noise by sentinels in the inputs; the targets are sentinels and noise.

    The k-th span of a row has the k-th sentinel in inputs and targets. For masks of `noise_mask`
    without roll these are the tokens of T5's own preprocessing.

    Args:
        ids_BT: the text.
        mask_BT: True for noise; any mask, also one that begins with noise.
        sentinels: their ids, in the order of the spans.
        eos: id at the end of inputs and targets; None adds none.
        pad: id of padding, which no text contains.
        final_sentinel: add a sentinel after the last span of the targets, as in the paper's
            figure 2.
        widths: of inputs and targets; by default those of the longest row.

    Returns:
        Inputs [B, I] and targets [B, O].

    Raises:
        UserError: a row has more spans than there are sentinels.
        ValueError: a row is longer than its given width.
    """
    starts = mask_BT.copy()
    starts[:, 1:] &= ~mask_BT[:, :-1]
    spans = starts.sum(axis=1)
    needed = int(spans.max(initial=0)) + final_sentinel
    if needed > len(sentinels):
        raise UserError(
            f"sentinels: the vocabulary has {len(sentinels)}, and span corruption needs {needed}; "
            f"train the tokenizer with sentinels = {needed}, or corrupt fewer or longer spans"
        )
    order = np.asarray(sentinels, np.int32)
    marks = order[ranks(spans)]
    marked = ids_BT.astype(np.int32)
    marked[starts] = marks
    inputs = marked[~mask_BT | starts]
    targets = np.insert(ids_BT[mask_BT].astype(np.int32), np.flatnonzero(starts[mask_BT]), marks)
    noise = mask_BT.sum(axis=1)
    end = () if eos is None else (eos,)
    final = (order[spans],) if final_sentinel else ()
    inputs_width, targets_width = widths or (None, None)
    return (
        pack(inputs, mask_BT.shape[1] - noise + spans, pad, inputs_width, tail=end),
        pack(targets, noise + spans, pad, targets_width, tail=(*final, *end)),
    )


def restore(inputs: Ids, targets: Ids, sentinels: Integers, eos: int | None, pad: int) -> Ids:
    """The original text of inputs and targets of `corrupt_spans`.

    Args:
        inputs: shape [B, I].
        targets: shape [B, O].
        sentinels, eos, pad: as in `corrupt_spans`.

    Returns:
        Token ids [B, T], padded on the right.

    Raises:
        ValueError: the sentinels of a row's inputs and targets differ, or a token of the targets
            follows none of them.
    """
    source, target = (_without_end(ids, eos, pad) for ids in (inputs, targets))
    source_marks = source & np.isin(inputs, sentinels)
    target_marks = target & np.isin(targets, sentinels)
    spans = source_marks.sum(axis=1)
    # A final sentinel has no span.
    number = np.cumsum(target_marks, axis=1)
    paired = (number > 0) & (number <= spans[:, None])
    noise = target & ~target_marks
    matched = np.array_equal(inputs[source_marks], targets[target_marks & paired])
    if not matched or (noise & ~paired).any():
        raise ValueError("the sentinels of the inputs and of the targets differ")
    # The length of every span, and the position of each token of the inputs in the text.
    row = np.nonzero(noise)[0]
    span = (np.cumsum(spans) - spans)[row] + number[noise] - 1
    size = np.bincount(span, minlength=int(spans.sum()))
    room = source.astype(np.int64)
    room[source_marks] = size
    begin = np.cumsum(room, axis=1) - room
    text = np.full((len(inputs), int(room.sum(axis=1).max(initial=0))), pad, np.int32)
    plain = source & ~source_marks
    text[np.nonzero(plain)[0], begin[plain]] = inputs[plain]
    text[row, begin[source_marks][span] + ranks(size)] = targets[noise]
    return text


def _ends(random: UInt64, spans: int) -> NDArray[np.int64]:
    """Ends of the spans of a random composition.

    Args:
        random: shape [B, items - 1], a number for each boundary between two items.
        spans: from 1 to items.

    Returns:
        Ascending ends, the last one `items`, shape [B, spans].
    """
    rows, boundaries = random.shape
    ends = np.full((rows, spans), boundaries + 1)
    if spans > 1:
        # Cut at the boundaries with the smallest numbers: all choices are equally likely.
        numbers = distinct(random)
        limit = np.partition(numbers, spans - 2, axis=1)[:, spans - 2, None]
        ends[:, :-1] = np.nonzero(numbers <= limit)[1].reshape(rows, spans - 1) + 1
    return ends


def _without_end(ids: Ids, eos: int | None, pad: int) -> Bool:
    """True for the tokens before the `eos` and the padding of each row."""
    width = ids.shape[1]
    # True where not padding, reversed, with a last True that ends the search in an empty row.
    backwards = np.pad((ids != pad)[:, ::-1], ((0, 0), (0, 1)), constant_values=True)
    length = width - np.argmax(backwards, axis=1)
    return first(length - (eos is not None), width)
