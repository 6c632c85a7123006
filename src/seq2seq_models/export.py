"""A way out: a checkpoint as files that run without this library, and the command `seq2seq-models export`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from .bundled import resolve_model
from .checkpoint_commands import Stopped, add_log_options
from .errors import CheckpointError, GenerationError

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")
"""A repository with one of these has a tokenizer."""


@dataclass(frozen=True)
class Form:
    """What a checkpoint is exported to.

    Attributes:
        framework: that the model is loaded in to be written; None where its weights alone are.
        runs_on: the packages that the result needs, besides NumPy.
        files: what holds the model, in a sentence.
        sizes: of batches and sources, in a sentence.
    """

    framework: str | None
    runs_on: str
    files: str
    sizes: str = "Batches and lengths may be of any size up to the positions there are."


FORMS = {
    "onnx": Form(
        "pytorch",
        "onnxruntime",
        "`encode.onnx`, `decode_step.onnx` and `generate.onnx`; the weights of all three are in `weights.safetensors`. "
        "In the graph of `decode_step`, the outputs that are called like an input begin with `new_`.",
    ),
    "torch": Form("pytorch", "torch", "`encode.pt2`, `decode_step.pt2` and `generate.pt2`, for `torch.export.load`."),
    "savedmodel": Form(
        "tensorflow",
        "tensorflow",
        "`saved_model/1`, with the functions as signatures.",
        "`encode` and `decode_step` take any size; `generate` takes {batch_size} x {source_length}: what is smaller is "
        "padded, with an `attention_mask` of 0.",
    ),
    "jax": Form(
        "flax",
        "jax safetensors",
        "`encode.stablehlo`, `decode_step.stablehlo` and `generate.stablehlo`, for `jax.export.deserialize`, on CPU, "
        "GPU or TPU; their first input is what `weights.safetensors` holds, as a dict.",
    ),
    "ctranslate2": Form(
        None, "ctranslate2", "the folder `ctranslate2`, for `ctranslate2.Translator`. It has `generate` only."
    ),
}
"""Formats by their names."""


def export_checkpoint(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    form: str,
    *,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    source_length: int = 128,
    revision: str | None = None,
    token: str | bool | None = None,
    committing: Callable[[], object] | None = None,
) -> list[Path]:
    """The files that were written: a model that generates without this library, its tokenizer, and how to run it.

    They are `encode`, `decode_step` and `generate` (core/generation/served.py says what they take and give),
    config.json, generation_config.json with the options in it, the tokenizer's files, generate.py and runtime.py,
    which run them, and README.md. Weights and computation are float32. After an error nothing is left.

    Args:
        source: repository or folder of a model for conditional generation.
        folder: where to; new or empty.
        form: a key of `FORMS`.
        options: of `generate`, beside the checkpoint's own; what is compiled into it.
        batch_size, source_length: of the inputs of a SavedModel's `generate`.
        revision: branch, tag or commit of the source.
        token: access token.
        committing: called when all is written, before the first file is moved into its place.

    Raises:
        CheckpointError: for an unknown format, a folder that holds something, or faulty files.
        CheckpointNotFoundError: there is no such source.
        GenerationError: for options that are unknown, or that nothing compiled can do.
        MissingFrameworkError: a package is not installed.
    """
    from .core.hub import Repository
    from .core.storage.saving import write_folder_atomically

    target = Path(folder).expanduser()
    _check(form, target)
    repository = Repository.from_options(source, {"revision": revision, "token": token})
    given, sizes = dict(options or {}), {"batch_size": batch_size, "source_length": source_length}
    write = _writer(repository, form, given, sizes)

    def complete(scratch: Path) -> None:
        write(scratch)
        for name, original in (("generate.py", "generate.py"), ("runtime.py", f"{form}.py")):
            (scratch / name).write_text(_packaged(original), encoding="utf-8")
        (scratch / "README.md").write_text(_readme(form, sizes), encoding="utf-8")
        if committing is not None:
            committing()

    return write_folder_atomically(target, complete)


def _check(form: str, target: Path) -> None:
    faults = []
    if form not in FORMS:
        faults.append(f"`to` must be one of {', '.join(FORMS)}, got {form!r}. Give one of these.")
    if target.exists() and not target.is_dir():
        faults.append(f"`folder` must be a folder, got the file {target}. Give another name.")
    elif target.is_dir() and any(target.iterdir()):
        faults.append(f"`folder` must be new or empty, got {target}, which holds files. Give another name.")
    if faults:
        raise CheckpointError(" ".join(sorted(faults)))


def _writer(repository: Any, form: str, options: Mapping[str, Any], sizes: Mapping[str, int]) -> Callable[[Path], None]:
    """A function that writes the model, its configs and its tokenizer into a folder."""
    from .core.generation.served import settled

    framework = FORMS[form].framework
    model, config, own = _loaded(repository, framework)
    if not config.is_encoder_decoder or (model is not None and model.head != "conditional"):
        raise CheckpointError(f"The model must be one for conditional generation, got {config.architectures}.")
    generation_config, _ = settled(own, options)
    tokenizer = _tokenizer(repository)

    def write(folder: Path) -> None:
        if form in ("onnx", "torch"):
            from .pytorch import serving

            serving.export(model, str(folder), "onnx" if form == "onnx" else "torch", **options)
        elif form == "savedmodel":
            from .tensorflow import serving as tensorflow

            tensorflow.export(model, str(folder / "saved_model" / "1"), **sizes, **options)
        elif form == "jax":
            from .flax import serving as flax

            flax.export(model, str(folder), **options)
        else:
            _write_ctranslate2(repository, config, generation_config, tokenizer, folder)
        config.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    return write


def _loaded(repository: Any, framework: str | None) -> tuple[Any, Any, Any]:
    """The model, None where none is needed, its config and its generation config."""
    if framework is not None:
        from .frameworks import load_model

        model = load_model(framework, repository, None, {}, {})
        return model, model.config, model.generation_config
    from .core.config import config_of
    from .core.generation_config import GenerationConfig

    config = config_of(repository)
    return None, config, GenerationConfig.from_pretrained(repository)


def _tokenizer(repository: Any) -> Any:
    from .auto import AutoTokenizer

    has_one = any(repository.find(name) is not None for name in TOKENIZER_FILES)
    return AutoTokenizer.from_pretrained(repository) if has_one else None


def _write_ctranslate2(repository: Any, config: Any, generation_config: Any, tokenizer: Any, folder: Path) -> None:
    from .core.storage.conversion import canonical_weights
    from .ctranslate2_spec import write_ctranslate2

    start, end = generation_config.decoder_start_token_id, generation_config.eos_token_id
    # Without a tokenizer the words are the ids themselves, as text: CTranslate2 takes words only.
    name = str if tokenizer is None else tokenizer.convert_ids_to_tokens
    words = list(map(name, range(config.vocab_size)))
    write_ctranslate2(canonical_weights(repository, config), config, words, start, end, folder / "ctranslate2")


# The page in the folder.


def _readme(form: str, sizes: Mapping[str, int]) -> str:
    """README.md of an exported folder."""
    one = FORMS[form]
    text = _packaged("README.md" if one.framework else "README.ctranslate2.md")
    return text.format(form=form, runs_on=one.runs_on, files=one.files, sizes=one.sizes.format(**sizes))


def _packaged(name: str) -> str:
    """A file that exports are made of; none of them is imported here."""
    return resources.files(__package__).joinpath("exported", name).read_text(encoding="utf-8")


# The command.


def add_export_command(commands: Any) -> None:
    """Adds `export` to the commands of the parser."""
    command = commands.add_parser(
        "export",
        help="write a checkpoint as files that run without this library",
        description="Writes a model, its tokenizer and a program that runs them in ONNX Runtime, torch, TensorFlow, "
        "JAX or CTranslate2 alone.",
    )
    command.add_argument(
        "model", metavar="MODEL", help="a repository of the hub, a folder, or the name of a demo checkpoint"
    )
    command.add_argument("folder", metavar="FOLDER", help="the folder to write, new or empty")
    command.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(FORMS))
    command.add_argument(
        "--options", metavar="JSON", help='options of generate beside the checkpoint\'s own, as {"num_beams": 4}'
    )
    command.add_argument("--batch-size", type=int, default=1, metavar="N", help="inputs of a SavedModel's generate")
    command.add_argument("--source-length", type=int, default=128, metavar="N", help="and their length")
    command.add_argument("--revision", help="branch, tag or commit of the repository")
    command.add_argument("--token", help="access token for a private or gated repository")
    add_log_options(command)
    command.set_defaults(run=export)


def export(options: argparse.Namespace) -> None:
    """Writes a checkpoint in a format that runs without this library, all of it or nothing."""
    with Stopped() as stopped:
        files = export_checkpoint(
            resolve_model(options.model),
            options.folder,
            options.to,
            options=_options(options.options),
            batch_size=options.batch_size,
            source_length=options.source_length,
            revision=options.revision,
            token=options.token,
            committing=stopped.let_finish,
        )
    size = sum(file.stat().st_size for file in files)
    print(f"{options.folder}: {len(files)} files, {size / 1e6:,.1f} MB; README.md says how to run them")


def _options(given: str | None) -> dict[str, Any]:
    try:
        found = json.loads(given or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise GenerationError(f"`--options` must be a JSON object, got {given!r}. Write it as '{{\"num_beams\": 4}}'.")
    return found
