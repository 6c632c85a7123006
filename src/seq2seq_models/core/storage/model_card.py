"""The README.md that `push_to_hub` gives a repository: what was saved, by which class, and how to load it.

What nobody has said is not made up: no license, no language, no data set, no quality.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath
from typing import Any

from .stored import NAMES

BEGIN = "<!-- seq2seq_models: {} -->"
END = "<!-- seq2seq_models: end -->"
FORMATS = {".safetensors": "safetensors", ".bin": "PyTorch", ".h5": "Keras", ".msgpack": "Flax"}
FRAMEWORKS = {"pt": "PyTorch", "tf": "TensorFlow", "flax": "Flax"}
TENSORS = {"pt": "pt", "tf": "tf", "flax": "np"}
"""`return_tensors` of the tokenizer, for each framework."""
VARIANT = re.compile(r"[a-z_]+\.([\w-]+?)(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin|h5|msgpack)")

CHAT = "blenderbot-small"


@dataclass(frozen=True)
class Pushed:
    """What is pushed, and where to.

    Attributes:
        thing: the model, tokenizer, config or generation config.
        repo_id: "owner/name".
        files: the paths that are uploaded.
        tags: the user's words for the card.
        revision: the branch that it is pushed to, if it is not the main one.
    """

    thing: Any
    repo_id: str
    files: list[str]
    tags: list[str]
    revision: str | None = None

    @property
    def class_name(self) -> str:
        """The class that the files were saved from."""
        return type(self.thing).__name__

    @property
    def head(self) -> str | None:
        """What a model has on top, "base", "conditional" or "causal"; None for anything else."""
        return getattr(self.thing, "head", None)

    @property
    def model_type(self) -> str | None:
        """The family: "pegasus" or "blenderbot-small"; None if there is none."""
        found = getattr(getattr(self.thing, "config", self.thing), "model_type", None)
        return found if isinstance(found, str) and found else None

    def metadata(self) -> dict[str, Any]:
        """What the hub reads: library, task and tags."""
        chat = self.head == "conditional" and self.model_type == CHAT
        task = {"base": "feature-extraction", "causal": "text-generation", "conditional": "summarization"}
        found: dict[str, Any] = {"library_name": "seq2seq_models"}
        if self.head is not None:
            found["pipeline_tag"] = "text-generation" if chat else task[self.head]
        tags = [self.model_type, "conversational" if chat else None, *self.tags]
        tags = list(dict.fromkeys(tag for tag in tags if tag))
        return {**found, **({"tags": tags} if tags else {})}

    def section(self) -> str:
        """The part of the card about this object, between two marks by which a later push finds it."""
        rows = [("class", f"`{self.class_name}`"), *self._facts(), ("files", self._file_list())]
        table = ["| what | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)]
        example = ["```python", *self._example(), "```"]
        return "\n".join(
            [BEGIN.format(self.class_name), f"## {self.class_name}", "", *table, "", *example, "", END],
        )

    def _facts(self) -> list[tuple[str, str]]:
        thing, found = self.thing, []
        if self.head is not None:
            weights = [one for one in thing._weights() if one.name != "final_logits_bias"]
            count = sum(prod(one.shape) for one in weights)
            dtypes = sorted({NAMES.get(one.dtype, one.dtype) for one in weights})
            found += [("framework", FRAMEWORKS[thing.framework])]
            found += [("parameters", f"{count:,}, {' and '.join(dtypes)}"), ("format", self._format())]
        config = getattr(thing, "config", thing)
        if hasattr(config, "encoder_layers"):
            found.insert(0, ("architecture", _architecture(config)))
        if hasattr(thing, "convert_tokens_to_ids"):
            found.append(("vocabulary", f"{len(thing):,} tokens"))
        return found

    def _format(self) -> str:
        weights = [name for name in self.files if PurePosixPath(name).suffix in FORMATS]
        names = sorted({FORMATS[PurePosixPath(name).suffix] for name in weights})
        return " and ".join(names) + (f", in {len(weights)} shards" if len(weights) > 1 else "")

    def _file_list(self) -> str:
        return ", ".join(f"`{name}`" for name in self.files)

    def _example(self) -> list[str]:
        """Python that loads what was pushed, and uses it."""
        name, module = self.class_name, type(self.thing).__module__
        package = "seq2seq_models" if module.partition(".")[0] == "seq2seq_models" else module
        source = f'"{self.repo_id}"' + (f', revision="{self.revision}"' if self.revision else "")
        if self.head is None:
            return [f"from {package} import {name}", "", *self._small_example(name, source)]
        first = [f"from {package} import {name}"]
        if package == "seq2seq_models":
            first = [f"from seq2seq_models import {', '.join(sorted(('AutoTokenizer', name), key=str.lower))}"]
        else:
            first.append("from seq2seq_models import AutoTokenizer")
        variants = [found[1] for file in self.files if (found := VARIANT.fullmatch(file))]
        of_model = source + (f', variant="{variants[0]}"' if variants else "")
        framework = self.thing.framework
        text = "hello, how are you?" if self.model_type == CHAT else "A fire broke out at the harbour on Monday."
        lines = [
            *first,
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({source})  # if one was pushed here too",
            f"model = {name}.from_pretrained({of_model})",
            f'inputs = tokenizer("{text}", return_tensors="{TENSORS[framework]}")',
        ]
        if self.head == "base":
            return [*lines, "print(model(**inputs, decoder_input_ids=inputs.input_ids).last_hidden_state.shape)"]
        room = ", max_new_tokens=20" if self.head == "causal" else ""  # a prompt may fill the config's length by itself
        ids = f"model.generate(**inputs{room})" + (".sequences" if framework == "flax" else "")
        return [*lines, f"print(tokenizer.batch_decode({ids}, skip_special_tokens=True)[0])"]

    def _small_example(self, name: str, source: str) -> list[str]:
        if hasattr(self.thing, "convert_tokens_to_ids"):
            return [
                f"tokenizer = {name}.from_pretrained({source})",
                'ids = tokenizer("A fire broke out at the harbour.").input_ids',
                "print(ids)",
                "print(tokenizer.decode(ids))",
            ]
        if hasattr(self.thing, "num_beams") and self.model_type is None:
            return [
                f"generation_config = {name}.from_pretrained({source})",
                "print(generation_config)",
                "# model.generate(..., generation_config=generation_config)",
            ]
        return [f"config = {name}.from_pretrained({source})", "print(config)"]


def _architecture(config: Any) -> str:
    names = ("encoder_layers", "decoder_layers", "d_model", "encoder_attention_heads", "vocab_size",
             "max_position_embeddings")  # fmt: skip
    return f"{config.model_type}: " + ", ".join(f"`{name}` {getattr(config, name)}" for name in names)


def new_card(pushed: Pushed) -> str:
    """A card for a repository that has none."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(**pushed.metadata()).to_yaml()
    intro = "Saved with `seq2seq_models`. What it was trained on, and what it may be used for, is not said here.\n"
    return f"---\n{head}\n---\n\n# {pushed.repo_id}\n\n{intro}\n{pushed.section()}\n"


def changed_card(text: str, pushed: Pushed) -> str | None:
    """The card of a repository after this push; None if it stays as it is.

    A card stays its author's: the user's tags are added to it. Only one that holds a section of `new_card` gets another
    for this class, or has that of this class renewed, and the task where it names none.
    """
    from huggingface_hub import ModelCard

    section, found = pushed.section(), text
    begin = BEGIN.format(pushed.class_name)
    ours = END in text
    if ours and begin in text:
        before, _, rest = text.partition(begin)
        found = before + section + rest.partition(END)[2]
    elif ours:
        before, _, rest = text.rpartition(END)
        found = f"{before}{END}\n\n{section}{rest}"
    card = ModelCard(found, ignore_metadata_errors=True)
    present, wanted = list(card.data.get("tags") or []), pushed.metadata()
    tags = [tag for tag in (wanted.get("tags", []) if ours else pushed.tags) if tag not in present]
    task = wanted.get("pipeline_tag") if ours and not card.data.get("pipeline_tag") else None
    if tags:
        card.data["tags"] = present + tags
    if task:
        card.data["pipeline_tag"] = task
    if not tags and not task:
        return found if found != text else None
    return str(card)
