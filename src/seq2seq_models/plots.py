"""Where a summary or a reply looked: cross-attention over the source, as numbers and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, MissingFrameworkError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def cross_attention(
    outputs: Any, row: int = 0, layers: list[int] | None = None, heads: list[int] | None = None
) -> NDArray[np.float32]:
    """The attention that each new token of a row paid to the source when it was chosen, float32 [new tokens, S].

    With beams it is that of the beam the token came from. A row of weights adds up to 1.

    Args:
        outputs: what `generate(..., return_dict_in_generate=True, output_attentions=True)` of an encoder-decoder
            returned, in any framework.
        row: of `outputs.sequences`.
        layers, heads: which to average over; None is all of them.

    Raises:
        InputError: the outputs hold no cross-attention, or there is no such row.
    """
    steps, sequences = getattr(outputs, "cross_attentions", None), getattr(outputs, "sequences", None)
    if not steps or sequences is None or not isinstance(steps[0], tuple | list):
        raise InputError(
            "`outputs` must be what generate(..., return_dict_in_generate=True, output_attentions=True) of an "
            f"encoder-decoder returned, got {type(outputs).__name__} without its cross-attentions (cross_attention)."
        )
    rows = len(sequences)
    if not 0 <= row < rows:
        raise InputError(f"`row` must be from 0 to {rows - 1}, got {row} (cross_attention).")
    beams: Any = getattr(outputs, "beam_indices", None)
    places = [row] * len(steps) if beams is None else [int(beam) for beam in beams[row] if beam >= 0]
    found = []
    for step, place in zip(steps, places, strict=False):
        weights = np.stack([_array(step[layer][place])[:, -1] for layer in layers or range(len(step))])
        found.append(weights[:, heads or slice(None)].mean((0, 1)))
    return np.asarray(found, np.float32)


def _array(weights: Any) -> NDArray[np.float32]:
    # NumPy takes no tensor that is on a GPU, and no bfloat16 of PyTorch.
    on_host = weights.detach().float().cpu() if hasattr(weights, "detach") else weights
    return np.asarray(on_host, np.float32)


def plot_attention(
    outputs: Any,
    tokenizer: Any,
    source: Any,
    row: int = 0,
    layers: list[int] | None = None,
    heads: list[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws `cross_attention`: a line for each new token, a column for each token of the source.

    Args:
        outputs, row, layers, heads: as for `cross_attention`.
        tokenizer: of the model; it writes the tokens at the edges.
        source: the ids that were read, int [B, S], as an array or a tensor of any framework.
        ax: where to draw; by default a new figure, large enough for the tokens.

    Returns:
        What was drawn on; `.figure.savefig("attention.png")` keeps it.

    Raises:
        InputError: as `cross_attention` does, or `source` is not what the outputs are made from.
        MissingFrameworkError: matplotlib is not installed.
    """
    weights = cross_attention(outputs, row, layers, heads)
    read, written = np.asarray(source), np.asarray(outputs.sequences[row])
    rows = len(outputs.sequences)
    if read.ndim != 2 or read.shape[1] != weights.shape[1] or rows % len(read):
        raise InputError(
            f"`source` must be the ids that were read, [B, {weights.shape[1]}] for {rows} rows, got {list(read.shape)} "
            "(plot_attention). Pass the `input_ids` given to generate."
        )
    ids = read[row * len(read) // rows]
    kept = np.flatnonzero(ids != tokenizer.pad_token_id)
    prompt = outputs.cross_attentions[0][0].shape[-2]  # read in the first step; behind the new tokens may be padding
    new = written[prompt : prompt + len(weights)]
    if tokenizer.pad_token_id in new:
        new = new[: list(new).index(tokenizer.pad_token_id)]
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MissingFrameworkError(
            "plot_attention needs matplotlib. Install it: pip install 'seq2seq-models[plots]'"
        ) from None
    if ax is None:
        size = (1.5 + 0.22 * len(kept), 1.5 + 0.22 * len(new))
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    ax.imshow(weights[: len(new), kept], cmap="Blues", vmin=0, aspect="auto")
    columns, lines = (tokenizer.convert_ids_to_tokens(one.tolist()) for one in (ids[kept], new))
    ax.set_xticks(range(len(kept)), columns, rotation=90)
    ax.set_yticks(range(len(new)), lines)
    ax.set_xlabel("read")
    ax.set_ylabel("written")
    return ax
