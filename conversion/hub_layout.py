"""What both conversions share: the original's weights laid against a model's, and a repository written whole or not."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq_models import GenerationConfig
from seq2seq_models.core.checkpoints import FORMATS, is_weight_file, write_checkpoint
from seq2seq_models.core.parameters import FINAL_LOGITS_BIAS, Parameter, parameters
from seq2seq_models.core.storage.casting import cast
from seq2seq_models.core.storage.saving import write_folder_atomically
from seq2seq_models.core.storage.stored import DTYPE_NAMES, DTYPES, Stored
from seq2seq_models.errors import CheckpointError, MissingFrameworkError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq2seq_models import PretrainedConfig

TOKENIZER_FILES = ("added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json",
                   "tokenizer_config.json", "vocab.json")  # fmt: skip
SETTINGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Origin:
    """Where a weight comes from.

    Attributes:
        name: of the variable in the original; None if it has none, and the weight is zero.
        turned: the original keeps it [in, out].
    """

    name: str | None
    turned: bool = False


def part_of_layer(name: str) -> tuple[str, int, str, str] | None:
    """Side, layer, part and leaf of a weight of a layer: ("encoder", 3, "self_attn.q_proj", "bias"); else None."""
    found = re.fullmatch(r"model\.(encoder|decoder)\.layers\.([0-9]+)\.(.+)\.(weight|bias)", name)
    return None if found is None else (found[1], int(found[2]), found[3], found[4])


def layer_count(names: Iterable[str], pattern: str) -> int:
    """How many numbers of layers a pattern's one group finds at the start of the original's names.

    Not the largest of them, which a damaged file could make as large as it likes.
    """
    found = [re.match(pattern, name) for name in names]
    return len({match[1] for match in found if match is not None})


def size_of(held: Mapping[str, Stored], names: Sequence[str], what: str, where: Path) -> list[tuple[int, ...]]:
    """Shapes of the variables that the sizes of the model are read from, two dimensions each.

    Raises:
        CheckpointError: one is missing, or has another number of dimensions.
    """
    absent = sorted(name for name in names if name not in held or len(held[name].shape) != 2)
    if absent:
        first = ", ".join(sorted(held)[:3]) or "nothing"
        raise CheckpointError(
            f"{where} must hold the weights of {what}, but lacks the matrices {', '.join(absent)} that its sizes are "
            f"read from (it holds {first}, ...). Give the checkpoint of such a model."
        )
    return [held[name].shape for name in names]


def laid_out(
    held: Mapping[str, Stored],
    config: PretrainedConfig,
    origin_of: Callable[[Parameter], Origin],
    where: Path,
) -> list[Stored]:
    """The weights of a model under their names of the hub, not read yet; ties and computed tables left out.

    Args:
        held: the original's variables by name, all of which must find their place.
        config: of the model.
        origin_of: the original's variable for a weight.
        where: the original, for messages.
    Raises:
        CheckpointError: variables that are missing, unknown or of another shape; all of them in one message.
    """
    wanted = [one for one in parameters(config) if one.tied_to is None and (one.kind != "table" or not one.optional)]
    missing, wrong, used, found = [], [], set(), []
    for parameter in wanted:
        origin = origin_of(parameter)
        if origin.name is None:
            found.append(zeros(parameter))
            continue
        used.add(origin.name)
        shape = parameter.shape[::-1] if origin.turned else parameter.shape
        if origin.name not in held:
            missing.append(origin.name)
        elif held[origin.name].shape != shape:
            wrong.append(f"{origin.name} (must be {list(shape)}, is {list(held[origin.name].shape)})")
        else:
            found.append(_turned(held[origin.name], parameter, origin.turned))
    faults = {"missing": missing, "unknown": set(held) - used, "of another shape": wrong}
    if any(faults.values()):
        text = "; ".join(f"{fault}: {', '.join(sorted(names))}" for fault, names in faults.items() if names)
        raise CheckpointError(
            f"The variables of {where} must be those of a {config.model_type} model of its sizes, but some are not. "
            f"{text}. Check that it is a checkpoint of this architecture, and complete."
        )
    return found


def zeros(parameter: Parameter) -> Stored:
    """A weight that the original does not have, and that is zero here."""

    def read() -> NDArray[Any]:
        import numpy as np

        return np.zeros(parameter.shape, np.float32)

    return Stored(parameter.name, parameter.shape, "F32", read)


def _turned(tensor: Stored, parameter: Parameter, turned: bool) -> Stored:
    read = (lambda: tensor.read().T) if turned else tensor.read
    return replace(tensor, name=parameter.name, shape=parameter.shape, read=read)


def write_repository(
    target: Path,
    tensors: Sequence[Stored],
    config: PretrainedConfig,
    generation: Mapping[str, Any],
    write_tokenizer: Callable[[Path], object],
    options: argparse.Namespace,
) -> list[Path]:
    """Writes config.json, generation_config.json, model.safetensors and a tokenizer: the files, or none after an error.

    Args:
        target: the folder; made if it is not there.
        tensors: under their names of the hub.
        config: of the model.
        generation: options that generation_config.json states.
        write_tokenizer: writes the tokenizer's files into a folder.
        options: with `dtype`, `max_shard_size` and `force`, as `add_options` adds them.
    Raises:
        CheckpointError: the folder holds a checkpoint, and `force` is not set.
    """
    present = sorted(path.name for path in target.iterdir() if _is_ours(path.name)) if target.is_dir() else []
    if present and not options.force:
        raise CheckpointError(
            f"`target` must not hold a checkpoint, got {target} with {', '.join(present)}. Give another folder, or "
            "--force to replace it."
        )
    config.dtype = options.dtype
    stated = {name: getattr(config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id",
                                                       "decoder_start_token_id", "forced_eos_token_id")}  # fmt: skip

    def write(folder: Path) -> None:
        config.save_pretrained(folder)
        GenerationConfig(**stated, **generation).save_pretrained(folder)
        write_tokenizer(folder)
        asked = [cast(tensor, DTYPES[options.dtype]) for tensor in tensors]
        write_checkpoint(folder, asked, max_shard_size=options.max_shard_size)

    return write_folder_atomically(target, write, stale=_is_ours)


def _is_ours(filename: str) -> bool:
    return filename in (*SETTINGS, *TOKENIZER_FILES) or any(is_weight_file(filename, form=form) for form in FORMATS)


def origin_of_rest(name: str) -> Origin:
    """Neither original has a bias of its logits."""
    if name != FINAL_LOGITS_BIAS:
        raise KeyError(name)
    return Origin(None)


# ---- the command line


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both commands take: --dtype, --max-shard-size, --force."""
    choices = [dtype for dtype in DTYPE_NAMES.values() if dtype != "float64"]
    parser.add_argument("--dtype", choices=choices, default="float32", help="of the weights that are written (float32)")
    parser.add_argument("--max-shard-size", default="5GB", help='of one weight file, such as "500MB" (5GB)')
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that the target holds")


def run(convert: Callable[[argparse.Namespace], list[Path]], options: argparse.Namespace) -> int:
    """Converts and prints what was written; a fault is one line on stderr, and the exit status 1."""
    try:
        written = convert(options)
    except (ValueError, OSError, MissingFrameworkError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(f"{path.stat().st_size:>14,}  {path}")
    return 0
