"""Text in, text out: summaries, generated texts and replies from one call, over whichever framework runs the model.

Tokenizer, model and the checkpoint's own generation settings are put together here, and nothing is decided over their
heads: an option that the caller does not give stays what the checkpoint says.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .bundled import DEMO_CHECKPOINTS, demo_checkpoint, resolve_model
from .core.conversation import Conversation
from .core.settings.generation_options import OPTIONS
from .core.window import cut_rows, part_rows, window
from .errors import InputError
from .frameworks import device_of, framework_name, load_model, place, running_on, tensor_kind, with_key

logger = logging.getLogger("seq2seq_models")

BATCH_SIZE = 8
"""Texts that one call of `generate` takes, unless the caller says otherwise."""

TASKS = {
    "summarization": "summarization",
    "text2text-generation": "text2text-generation",
    "chat": "chat",
    "conversational": "chat",  # what transformers called it until 4.41
}


class Text2TextGenerationPipeline:
    """Generates a text for each text: one model, its tokenizer, and the way in and out.

    Attributes:
        model: the model, on its device.
        tokenizer: its tokenizer.
        device: where the model's weights are.
        batch_size: texts per call of `generate`.
        generation_config: the checkpoint's own settings, which each call's options are laid over.
    """

    task = "text2text-generation"
    _key = "generated"
    _parts = False
    _cleans_up = False
    _takes_prefix = True

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int | None = None, **options: Any) -> None:
        """Puts a loaded model and its tokenizer together; `pipeline(...)` does so from a name.

        Args:
            model: a conditional-generation model.
            tokenizer: its tokenizer.
            batch_size: texts per call of `generate`.
            options: defaults for every call, see `__call__`. Under them lie those of the config's
                `task_specific_params` for this task, whose `prefix` (or else the config's own) is put before each text.
        """
        own = _of_task(model.config, self.task)
        prefix = own.pop("prefix", getattr(model.config, "prefix", None))
        self.prefix = str(prefix or "") if self._takes_prefix else ""
        if own or self.prefix:
            asked = ", ".join(f"{name}={value!r}" for name, value in {"prefix": self.prefix, **own}.items() if value)
            logger.warning("%s: the model's config asks for %s, which holds for every call", self.task, asked)
        options = {**own, **options}
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = BATCH_SIZE if batch_size is None else _positive("batch_size", batch_size)
        self._options = options
        self._device: Any = None

    @property
    def device(self) -> Any:
        """Where the model's weights are, in its framework's words."""
        return device_of(self.model)

    @property
    def generation_config(self) -> Any:
        """The checkpoint's own generation settings."""
        return self.model.generation_config

    def __call__(self, texts: Any, **options: Any) -> Any:
        """What the model writes for each text.

        Args:
            texts: a text, a list of texts, or any other iterable or data set of texts (what has a length and items by
                number), which is read as the results are asked for.
            options: `batch_size`; `num_workers` (no effect: texts are tokenized here); `truncation` (True cuts a text
                to what the model reads and logs it; False raises for a text that is too long; for summaries it is
                unset, and a text that is too long is read in parts); `return_text` (default) and `return_tensors`
                (token ids instead, or both when both are True; of a text read in parts, a list with those of each
                part); `clean_up_tokenization_spaces`; everything else goes to `generate`.

        Returns:
            For one text a list of dictionaries, one per returned sequence (one, unless `num_return_sequences` says
            more). For a list of texts, one dictionary each, in order, or one list each where there are more sequences.
            For another iterable, an iterator over what each single text would give. The keys are `generated_text` or
            `summary_text`, and `generated_token_ids` or `summary_token_ids`.

        Raises:
            InputError: something other than text was given.
            GenerationError: an option is unknown or out of range.
        """
        call = self._call({**self._options, **options})
        if isinstance(texts, str):
            return self._batch([texts], call)[0]
        if not isinstance(texts, Iterable) and hasattr(texts, "__getitem__") and hasattr(texts, "__len__"):
            texts = map(texts.__getitem__, range(len(texts)))  # a data set of torch, such as transformers' KeyDataset
        if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
            raise InputError(
                f"`texts` must be a text or texts, got {type(texts).__name__} (pipeline). Pass a str or a list."
            )
        if isinstance(texts, list | tuple):
            results = self._sorted_batches(texts, call)
            return [result[0] for result in results] if all(len(result) == 1 for result in results) else results
        return self._stream(texts, call)

    def _call(self, options: dict[str, Any]) -> _Call:
        """The options of one call, those of the pipeline apart from those of `generate`."""
        tensors = bool(options.pop("return_tensors", False))
        text = options.pop("return_text", None)
        clean = options.pop("clean_up_tokenization_spaces", None)
        truncation = options.pop("truncation", None)
        size = options.pop("batch_size", None)
        options.pop("num_workers", None)
        return _Call(
            text=not tensors if text is None else bool(text),
            tensors=tensors,
            clean_up=self._cleans_up if clean is None else bool(clean),
            truncate=truncation not in (None, False, "do_not_truncate"),
            part=truncation is None and self._parts,
            batch_size=self.batch_size if size is None else _positive("batch_size", size),
            generate=options,
        )

    def _sorted_batches(self, texts: Sequence[str], call: _Call) -> list[list[dict[str, Any]]]:
        """Results in the order of `texts`, computed from the longest down, so that batches hold little padding."""
        order = sorted(range(len(texts)), key=lambda index: -len(_text(texts[index])))
        results: list[list[dict[str, Any]]] = [[] for _ in texts]
        for start in range(0, len(order), call.batch_size):
            chosen = order[start : start + call.batch_size]
            for index, result in zip(chosen, self._batch([texts[index] for index in chosen], call), strict=True):
                results[index] = result
        return results

    def _stream(self, texts: Iterable[str], call: _Call) -> Iterator[list[dict[str, Any]]]:
        """Results as they are asked for; no more than one batch is read ahead."""
        source = iter(texts)
        while batch := list(islice(source, call.batch_size)):
            yield from self._batch(batch, call)

    def _batch(self, texts: Sequence[str], call: _Call) -> list[list[dict[str, Any]]]:
        """The records of each text, all generated at once."""
        texts = [self.prefix + _text(text) for text in texts]
        limit = window(self.model.config, self.tokenizer)
        if call.part:
            return self._in_parts(part_rows(self.tokenizer, texts, limit), call)
        if call.truncate:
            rows = cut_rows(self.tokenizer, texts, limit)
        else:
            rows = [list(row) for row in self.tokenizer(texts)["input_ids"]]
        return self._generate(rows, call)

    def _in_parts(self, documents: list[list[list[int]]], call: _Call) -> list[list[dict[str, Any]]]:
        """The records of documents in parts: each sequence of a document joins those of its parts, in order."""
        rows = [row for parts in documents for row in parts]
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        found: list[list[dict[str, Any]]] = [[] for _ in rows]
        for start in range(0, len(order), call.batch_size):
            chosen = order[start : start + call.batch_size]
            results = self._generate([rows[index] for index in chosen], call)
            for index, result in zip(chosen, results, strict=True):
                found[index] = result
        remaining = iter(found)
        return [_joined([next(remaining) for _ in parts]) for parts in documents]

    def outputs(self, rows: Sequence[Sequence[int]], **options: Any) -> Any:
        """What `generate` of the model returns for rows of token ids, which need not be of one length.

        Args:
            rows: token ids of each input, special tokens included.
            options: of `generate`.
        """
        inputs = self.tokenizer.pad({"input_ids": rows}, return_tensors=tensor_kind(self.model))
        if hasattr(self.model, "to"):
            inputs = inputs.to(self.model.device)
        with running_on(self.model, self._device):
            return self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                **with_key(self.model, options),
            )

    def _generate(self, rows: list[list[int]], call: _Call) -> list[list[dict[str, Any]]]:
        """The records of each row of token ids."""
        output = self.outputs(rows, **call.generate)
        records = [self._record(sequence, call) for sequence in getattr(output, "sequences", output)]
        each = len(records) // len(rows)
        return [records[start : start + each] for start in range(0, len(records), each)]

    def _record(self, sequence: Any, call: _Call) -> dict[str, Any]:
        record: dict[str, Any] = {}
        if call.tensors:
            # What follows the end depends on what else was in the batch, so it is no part of the answer.
            ids, end = [int(token) for token in sequence], self.tokenizer.eos_token_id
            record[f"{self._key}_token_ids"] = sequence[: ids.index(end, 1) + 1] if end in ids[1:] else sequence
        if call.text:
            record[f"{self._key}_text"] = self.tokenizer.decode(
                sequence, skip_special_tokens=True, clean_up_tokenization_spaces=call.clean_up
            )
        return record


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Summarizes each text. One that is longer than the model reads is read in parts, whose summaries are joined.

    Parts are whole sentences; the log says so. `truncation=True` reads the beginning only, `truncation=False` raises.
    """

    task = "summarization"
    _key = "summary"
    # Differs from transformers 4.57.6: there a text that is too long ends in an index error unless truncation is on.
    _parts = True


class ChatPipeline(Text2TextGenerationPipeline):
    """Answers the user's last turn, from as much of the talk as the model reads."""

    task = "chat"
    _key = "generated"
    _cleans_up = True
    _takes_prefix = False  # as in transformers, where a talk has none

    def __call__(self, texts: Any, **options: Any) -> Any:
        """The talk with the reply appended.

        Args:
            texts: a `Conversation`, the user's first words, or a list of messages ({"role", "content"}); or a list of
                several of these, answered in batches.
            options: `batch_size`, `clean_up_tokenization_spaces` (on by default); `streamer` (with beams, it gets
                the words that all beams agree on); everything else goes to `generate`.

        Returns:
            The same `Conversation` (a new one where text or messages were given), its last turn the reply; for several,
            a list of them.

        Raises:
            InputError: the talk does not end with a turn of the user, or an option makes no sense here.
            GenerationError: an option of `generate` is unknown or out of range.
        """
        if needless := sorted({"return_text", "return_tensors", "truncation"} & {*self._options, *options}):
            raise InputError(
                f"`{needless[0]}` is no option of chat: a talk is cut as needed, a reply is text. Leave it out."
            )
        call = self._call({**self._options, **options})
        if int(call.generate.get("num_return_sequences") or 1) != 1:
            got = call.generate["num_return_sequences"]
            raise InputError(f"`num_return_sequences` must be 1, got {got!r} (chat). A turn has one reply.")
        many = isinstance(texts, list | tuple) and not _are_messages(texts)
        talks = [_conversation(talk) for talk in (texts if many else [texts])]
        limit = window(self.model.config, self.tokenizer)
        rows = [talk.encode(self.tokenizer, limit) for talk in talks]
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        for start in range(0, len(order), call.batch_size):
            chosen = order[start : start + call.batch_size]
            results = self._generate([rows[index] for index in chosen], call)
            for index, result in zip(chosen, results, strict=True):
                talks[index].add_reply(result[0][f"{self._key}_text"])
        return talks if many else talks[0]


def _joined(parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One record per sequence from those of each part: texts joined by a space, token ids as a list of the parts'."""
    if len(parts) == 1:
        return parts[0]
    joined = []
    for records in zip(*parts, strict=True):
        values = {key: [record[key] for record in records] for key in records[0]}
        joined.append({key: " ".join(found) if key.endswith("_text") else found for key, found in values.items()})
    return joined


@dataclass(frozen=True)
class _Call:
    """What one call of a pipeline asks for."""

    text: bool
    tensors: bool
    clean_up: bool
    truncate: bool
    part: bool
    batch_size: int
    generate: dict[str, Any]


_PIPELINES = {kind.task: kind for kind in (Text2TextGenerationPipeline, SummarizationPipeline, ChatPipeline)}


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    framework: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    batch_size: int | None = None,
    model_kwargs: dict[str, Any] | None = None,
    use_fast: bool = True,
    num_workers: int | None = None,
    trust_remote_code: bool | None = None,
    **options: Any,
) -> Text2TextGenerationPipeline:
    """A callable for a task: a model and its tokenizer, loaded and put together.

    >>> summarize = pipeline("summarization", model="google/pegasus-xsum")
    >>> summarize("The tower is 324 metres tall ...")
    [{'summary_text': '...'}]

    Args:
        task: "summarization", "text2text-generation" or "chat".
        model: a repository of the hub, a folder, or a loaded model. None takes the small demonstration checkpoint of
            the task that this package brings along.
        config: a config to load the model with, instead of its own.
        tokenizer: a loaded tokenizer, or where to load it from, when that is not the model's own place.
        framework: "pytorch" (default), "tensorflow" or "flax", also spelt "pt", "torch", "tf" and "jax". A loaded model
            runs in its own.
        revision: branch, tag or commit of the repository.
        token: access token for a private or gated repository (also spelt `use_auth_token`).
        device: "cpu", "cuda:0" (or "gpu:0"), a number (-1 is the CPU) or a device of the framework. None takes the
            first GPU that is there, else the CPU.
        device_map: passed on to `from_pretrained` instead of `device`.
        dtype: "float32", "bfloat16", "float16", "auto" or the framework's own type (also spelt `torch_dtype`).
        batch_size: texts per call of `generate`.
        model_kwargs: further keywords for the model's `from_pretrained`.
        use_fast: which name the class of the tokenizer has; both give the same ids.
        num_workers: no effect: texts are tokenized in this process.
        trust_remote_code: no effect: code from a repository is never run.
        options: defaults for every call: the options of the pipeline and of `generate`.

    Raises:
        InputError: an unknown task or device.
        MissingFrameworkError: the framework is not installed.
        CheckpointNotFoundError: there is no such repository or folder.
    """
    kind = _PIPELINES[_task(task)]
    name = framework_name(framework)
    use_auth_token = options.pop("use_auth_token", None)
    places = {"revision": revision, "token": use_auth_token if token is None else token}
    if model is None:
        model = demo_checkpoint(DEMO_CHECKPOINTS[kind.task])
        places = {}
    elif isinstance(model, str):
        model = resolve_model(model)
    if tokenizer is None:
        tokenizer = _source(model)
    if isinstance(tokenizer, str | Path):
        tokenizer = _load_tokenizer(tokenizer, {**places, "use_fast": use_fast})
    if isinstance(model, str | Path):
        further = {"config": config, "device_map": device_map, "dtype": torch_dtype if dtype is None else dtype}
        model = load_model(name, model, device, {**places, **further}, model_kwargs or {})
    made = kind(model, tokenizer, batch_size=batch_size, **options)
    if device_map is None:
        made._device = place(model, device)
    return made


def _of_task(config: Any, task: str) -> dict[str, Any]:
    """The options that a config's `task_specific_params` hold for a task, under any of its names."""
    every = getattr(config, "task_specific_params", None) or {}
    own: dict[str, Any] = next((every[name] for name, meant in TASKS.items() if meant == task and every.get(name)), {})
    unknown = sorted(name for name in own if name != "prefix" and name not in OPTIONS)
    if unknown:
        logger.warning("%s: the config's task_specific_params hold %s, which is no option", task, ", ".join(unknown))
    return {name: copy.deepcopy(value) for name, value in own.items() if name not in unknown}


def _task(task: str | None) -> str:
    if task in TASKS:
        return TASKS[task]
    names = ", ".join(repr(name) for name in _PIPELINES)
    raise InputError(f"`task` must be one of {names}, got {task!r} (pipeline). Name what the model is to do.")


def _source(model: Any) -> Any:
    """Where the tokenizer of this model is."""
    if isinstance(model, str | Path):
        return model
    if name := getattr(model.config, "name_or_path", ""):
        return name
    raise InputError("`tokenizer` must be given, got None, for a model that was not loaded by name (pipeline).")


def _load_tokenizer(source: str | Path, places: Mapping[str, Any]) -> Any:
    from .auto import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, **_given(places))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"`{name}` must be a whole number of at least 1, got {value!r} (pipeline).")
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise InputError(f"`texts` must hold texts, got {type(value).__name__} (pipeline). Pass a str or a list of them.")


def _are_messages(texts: Sequence[Any]) -> bool:
    return bool(texts) and isinstance(texts[0], Mapping)


def _conversation(talk: Any) -> Conversation:
    return talk if isinstance(talk, Conversation) else Conversation(talk)
