"""Chats to text by a Jinja template, for tokenizers that come with one. Jinja is imported only when one is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import MissingFrameworkError, TokenizerError

if TYPE_CHECKING:
    from .batch_encoding import BatchEncoding

Message = Mapping[str, Any]


class ChatTemplates:
    """`apply_chat_template`. Neither family's published checkpoints have a template; fine-tuned ones may."""

    chat_template: str | dict[str, str] | None

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """The template to use.

        Args:
            chat_template: a template, or the name of one of the tokenizer's; by default the tokenizer's own.
            tools: functions that the chat may call; of several templates, the one named "tool_use" is for them.
        Raises:
            TokenizerError: there is no template, or none of this name.
        """
        own = self.chat_template
        if isinstance(own, dict):
            if chat_template is not None:
                return own.get(chat_template, chat_template)
            name = "tool_use" if tools is not None and "tool_use" in own else "default"
            if name not in own:
                raise TokenizerError(
                    f"`chat_template` must name one of the tokenizer's templates ({', '.join(sorted(own))}), got None."
                )
            return own[name]
        found = chat_template if chat_template is not None else own
        if found is None:
            raise TokenizerError(
                "`chat_template` must be given: this tokenizer comes without one. To join turns as BlenderbotSmall "
                "was trained, put '__end__ __start__' between them (see Conversation)."
            )
        return found

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A chat as ids, as model inputs (`return_dict`), or as text (`tokenize=False`); for a batch, a list of these.

        Args:
            conversation: messages (dicts with "role" and "content"), or a list of such lists.
            tools: JSON schemas of functions that the chat may call, handed to the template.
            documents: dicts with "title" and "text", handed to the template.
            chat_template: a template, or the name of one of the tokenizer's.
            add_generation_prompt: end with what opens the reply.
            continue_final_message: leave the last message open, for the model to go on with it.
            tokenize: return ids instead of text.
            padding, truncation, max_length, return_tensors: as in `__call__`.
            return_dict: return all model inputs instead of the ids.
            return_assistant_tokens_mask: must be False.
            tokenizer_kwargs: further options of `__call__`.
            **kwargs: handed to the template.
        Raises:
            TokenizerError: no template, or options that exclude each other.
            MissingFrameworkError: jinja2 is not installed.
        """
        if return_assistant_tokens_mask:
            raise TokenizerError(
                "`return_assistant_tokens_mask` must be False, got True: it is not supported. Leave it out."
            )
        if return_dict and not tokenize:
            raise TokenizerError("`return_dict` must be False with tokenize=False, got True. Leave one of them out.")
        if continue_final_message and add_generation_prompt:
            raise TokenizerError(
                "`continue_final_message` and `add_generation_prompt` must not both be True. Leave one of them out."
            )
        template = self.get_chat_template(chat_template, tools)
        messages = getattr(conversation, "messages", conversation)
        batched = bool(messages) and not isinstance(messages[0], Mapping)
        chats = [getattr(chat, "messages", chat) for chat in messages] if batched else [messages]
        options = {**getattr(self, "special_tokens_map", {}), "tools": tools, "documents": documents, **kwargs}
        texts = [_render(template, chat, add_generation_prompt, continue_final_message, options) for chat in chats]
        if not tokenize:
            return texts if batched else texts[0]
        result: BatchEncoding = self(  # type: ignore[operator]
            texts if batched else texts[0], padding=padding, truncation=truncation, max_length=max_length,
            add_special_tokens=False, return_tensors=return_tensors, **dict(tokenizer_kwargs or {}),
        )  # fmt: skip
        return result if return_dict else result["input_ids"]


def _render(
    template: str, chat: Sequence[Message], opens_reply: bool, continues: bool, options: Mapping[str, Any]
) -> str:
    text = _compiled(template).render(messages=chat, add_generation_prompt=opens_reply, **options)
    if not continues:
        return str(text)
    last = chat[-1]["content"]
    last = last if isinstance(last, str) else last[-1]["text"]
    at = text.rfind(last.strip())
    if at < 0:
        raise TokenizerError(
            "`continue_final_message` must be False for this template: the last message is not in what it makes of "
            "the chat."
        )
    end = at + len(last.strip())
    kept = text[:end]
    # Whitespace at the message's end stays if the template keeps it.
    return str(text[: at + len(last.lstrip())] if text[at:].startswith(last.lstrip()) else kept)


def _compiled(template: str) -> Any:
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingFrameworkError(
            "`apply_chat_template` needs jinja2, which is not installed. Install it with `pip install jinja2`."
        ) from error

    def fail(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, **layout: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **layout})

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
