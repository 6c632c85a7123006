"""Special and added tokens: which there are, what their ids are, and where they stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, overload

from tokenizers import AddedToken

from ...errors import TokenizerError

Token: TypeAlias = str | AddedToken


class _SpecialToken:
    """A special token such as `eos_token`: None, or its text. Setting it takes a text or an AddedToken."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> _SpecialToken: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> str | None: ...
    def __get__(self, instance: SpecialTokens | None, owner: type) -> _SpecialToken | str | None:
        if instance is None:
            return self
        value = instance._special_tokens[self.name]
        return None if value is None else str(value)

    def __set__(self, instance: SpecialTokens, value: Token | None) -> None:
        instance._set_special_token(self.name, value)


class _SpecialTokenId:
    """The id of a special token, such as `eos_token_id`; None if there is no such token. Setting it sets the token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, instance: None, owner: type) -> _SpecialTokenId: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> int | None: ...
    def __get__(self, instance: SpecialTokens | None, owner: type) -> _SpecialTokenId | int | None:
        if instance is None:
            return self
        return instance._special_id(self.name)

    def __set__(self, instance: SpecialTokens, value: int | None) -> None:
        instance._set_special_token(self.name, None if value is None else instance._token_of(int(value)))


class _Tokens(dict[int, str]):
    """Id to token, filled on demand."""

    def __init__(self, owner: SpecialTokens) -> None:
        super().__init__()
        self.owner = owner

    def __missing__(self, index: int) -> str:
        token = self[index] = self.owner._token_of(index)
        return token


class SpecialTokens:
    """The bookkeeping of special and added tokens that every tokenizer has.

    An added token is one that is found in the text before anything else is done with it. A special token is an added
    token with a role, which `skip_special_tokens` leaves out of decoded text.
    """

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[list[str]] = [
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
        "additional_special_tokens",
    ]  # fmt: skip

    bos_token = _SpecialToken()
    eos_token = _SpecialToken()
    unk_token = _SpecialToken()
    sep_token = _SpecialToken()
    pad_token = _SpecialToken()
    cls_token = _SpecialToken()
    mask_token = _SpecialToken()
    bos_token_id = _SpecialTokenId()
    eos_token_id = _SpecialTokenId()
    unk_token_id = _SpecialTokenId()
    sep_token_id = _SpecialTokenId()
    pad_token_id = _SpecialTokenId()
    cls_token_id = _SpecialTokenId()
    mask_token_id = _SpecialTokenId()

    _special_tokens: dict[str, Token | None]
    _additional: list[Token]
    _extra: dict[str, Token]

    def _start_special_tokens(self, special: Mapping[str, Any], added: Mapping[int, AddedToken]) -> None:
        """Takes over the special tokens of the constructor's keywords and the added tokens of a saved tokenizer."""
        self._special_tokens = dict.fromkeys(self.SPECIAL_TOKENS_ATTRIBUTES[:-1])
        self._additional, self._extra = [], {}
        self._added_by_id: dict[int, AddedToken] = dict(added)
        self._added_ids: dict[str, int] = {token.content: index for index, token in self._added_by_id.items()}
        self._forget()
        for name in self.SPECIAL_TOKENS_ATTRIBUTES[:-1]:
            value = special.get(name)
            if value is not None:
                if not isinstance(value, Token):
                    raise TypeError(f"`{name}` must be a str or an AddedToken, got {type(value).__name__}.")
                self._special_tokens[name] = value
        additional = special.get("additional_special_tokens")
        if additional is not None:
            self._additional = _token_list("additional_special_tokens", additional)
        for name, value in dict(special.get("extra_special_tokens") or {}).items():
            if not isinstance(value, Token):
                raise TypeError(f"`extra_special_tokens` must hold strings or AddedTokens, got {name}={value!r}.")
            self._extra[name] = value
        # One that is given as an AddedToken says how it is to be found, and so replaces the one of the same text.
        tokens = self.all_special_tokens_extended
        self._add_tokens([t for t in tokens if isinstance(t, AddedToken) or t not in self._added_ids], True)

    # What a tokenizer of a family knows and this room does not.

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        raise NotImplementedError

    def _convert_token_to_id(self, token: str) -> int:
        raise NotImplementedError

    def _token_of(self, index: int) -> str:
        raise NotImplementedError

    def _vocabulary_changed(self) -> None:
        """Called when added tokens have changed."""

    # Roles

    def _forget(self) -> None:
        """Drops what was worked out from the tokens."""
        self._special_set: frozenset[str] | None = None
        self._special_ids: frozenset[int] | None = None
        self._alone: frozenset[str] | None = None
        self._tokens = _Tokens(self)
        self._pattern: re.Pattern[str] | bool | None = None

    def _set_special_token(self, name: str, value: Token | None) -> None:
        if value is not None and not isinstance(value, Token):
            raise ValueError(f"`{name}` must be a str or an AddedToken, got {type(value).__name__}.")
        self._special_tokens[name] = value
        self._forget()

    def _special_id(self, name: str) -> int | None:
        value = self._special_tokens[name]
        return None if value is None else self._id_of(str(value))

    def _id_of(self, token: str) -> int:
        index = self._added_ids.get(token)
        return self._convert_token_to_id(token) if index is None else index

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("_extra", {})
        if name in extra:
            return str(extra[name])
        if name.endswith("_id") and name[:-3] in extra:
            return self._id_of(str(extra[name[:-3]]))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def additional_special_tokens(self) -> list[str]:
        """The special tokens without a role of their own."""
        return [str(token) for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Sequence[Token] | None) -> None:
        self._additional = [] if value is None else _token_list("additional_special_tokens", value)
        self._forget()

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return [self._id_of(token) for token in self.additional_special_tokens]

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, value: Sequence[int]) -> None:
        self.additional_special_tokens = [self._token_of(int(index)) for index in value]

    @property
    def special_tokens_map_extended(self) -> dict[str, Token | list[Token]]:
        """Role to token, as AddedToken where it was given as one; roles without a token are left out."""
        found: dict[str, Token | list[Token]] = {name: token for name, token in self._special_tokens.items() if token}
        if self._additional:
            found["additional_special_tokens"] = list(self._additional)
        return {**found, **self._extra}

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Role to token, as text; roles without a token are left out."""
        return {
            name: [str(token) for token in value] if isinstance(value, list) else str(value)
            for name, value in self.special_tokens_map_extended.items()
        }

    @property
    def all_special_tokens_extended(self) -> list[Token]:
        """Every special token once, as AddedToken where it was given as one."""
        found: dict[str, Token] = {}
        for value in self.special_tokens_map_extended.values():
            for token in value if isinstance(value, list) else [value]:
                found.setdefault(str(token), token)
        return list(found.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once, as text."""
        return [str(token) for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [self._id_of(token) for token in self.all_special_tokens]

    def _special_token_set(self) -> frozenset[str]:
        if self._special_set is None:
            self._special_set = frozenset(self.all_special_tokens)
        return self._special_set

    def _special_id_set(self) -> frozenset[int]:
        if self._special_ids is None:
            self._special_ids = frozenset(self.all_special_ids)
        return self._special_ids

    # Added tokens

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id to added token, by id."""
        return dict(sorted(self._added_by_id.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Added token to id, by id."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    def _added_json(self) -> list[dict[str, Any]]:
        """The added tokens as tokenizer.json has them."""
        names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        return [
            {"id": index, **{name: getattr(token, name) for name in names}}
            for index, token in self.added_tokens_decoder.items()
        ]

    def get_added_vocab(self) -> dict[str, int]:
        """Added token to id, in the order in which they were added."""
        return dict(self._added_ids)

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Token | Sequence[Token]],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """How many tokens are new: gives tokens a role, and adds those that the vocabulary lacks.

        Args:
            special_tokens_dict: role ("eos_token", ..., "additional_special_tokens") to token or list of tokens.
            replace_additional_special_tokens: the given list of additional tokens replaces the one there is; the old
                ones stay in the vocabulary. False appends to it.
        Raises:
            TokenizerError: a role that does not exist, or something that is no token.
        """
        to_add: list[Token] = []
        unknown = sorted(set(special_tokens_dict or {}) - {*self.SPECIAL_TOKENS_ATTRIBUTES, *self._extra})
        if unknown:
            raise TokenizerError(
                f"`special_tokens_dict` must have keys of {self.SPECIAL_TOKENS_ATTRIBUTES}, got {', '.join(unknown)}."
            )
        for name, value in (special_tokens_dict or {}).items():
            if name == "additional_special_tokens":
                tokens = [_special(token) for token in _token_list(name, value)]
                if not replace_additional_special_tokens:
                    tokens = [token for token in tokens if str(token) not in self.additional_special_tokens]
                    self._additional += tokens
                elif tokens:
                    self._additional = list(tokens)
                to_add += tokens
            elif isinstance(value, Token):
                token = _special(value)
                (self._extra if name in self._extra else self._special_tokens)[name] = token
                to_add.append(token)
            else:
                raise NoTokenError(f"`{name}` must be a str or an AddedToken, got {type(value).__name__}.")
        self._forget()
        return self._add_tokens(to_add, True) if to_add else 0

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """How many tokens are new: adds tokens that are found in the text before anything else is done with it.

        Resize the model's embeddings to `len(tokenizer)` afterwards.

        Args:
            new_tokens: one token or several. AddedToken says more: `single_word`, `lstrip`, `rstrip`, `normalized`.
            special_tokens: they are special, that is left out of decoded text by `skip_special_tokens`.
        Raises:
            TypeError: something that is no token.
        """
        if not new_tokens:
            return 0
        return self._add_tokens([new_tokens] if isinstance(new_tokens, Token) else list(new_tokens), special_tokens)

    def _add_tokens(self, new_tokens: Iterable[Token], special_tokens: bool) -> int:
        vocab = self.get_vocab()
        size, added = len(vocab), 0
        for token in new_tokens:
            if not isinstance(token, Token):
                raise TypeError(f"A token must be a str or an AddedToken, got {type(token).__name__}.")
            if not str(token) or (isinstance(token, str) and token in self._added_ids):
                continue
            if isinstance(token, str):
                special = special_tokens or token in self._special_token_set()
                token = AddedToken(token, normalized=not special, special=special)
            elif special_tokens and not token.special:
                token = _copy(token, special=True)
            index = vocab.get(token.content)
            if index is None:
                index = vocab[token.content] = size + added
                added += 1
            if token.special and token.content not in self._special_token_set():
                self._additional.append(token)
            self._added_by_id[index] = token
            self._added_ids[token.content] = index
            self._forget()
        self._vocabulary_changed()
        return added

    # Added tokens in a text

    def _added_pattern(self) -> re.Pattern[str] | None:
        """What finds the added tokens in a text; None if there are none."""
        if self._pattern is None:
            # Differs from transformers 4.57.6: always the leftmost token, and there the longest. Its trie does the
            # same but for a token inside another one whose match breaks off ("bc" and "abcd" in "abcxd").
            names = sorted((name for name in self._added_ids if name), key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, names))) if names else False
        return self._pattern or None  # type: ignore[return-value]

    def _split_added(self, text: str) -> list[tuple[str, int, int | None]]:
        """The text in turns: a stretch of plain text with its place, or an added token with its place and id."""
        pattern = self._added_pattern()
        parts: list[tuple[str, int, int | None]] = []
        at = 0
        for match in pattern.finditer(text) if pattern else ():
            if match.start() > at:
                parts.append((text[at : match.start()], at, None))
            parts.append((match.group(), match.start(), self._added_ids[match.group()]))
            at = match.end()
        if at < len(text):
            parts.append((text[at:], at, None))
        return self._strip_around(parts) if len(parts) > 1 else parts

    def _strip_around(self, parts: list[tuple[str, int, int | None]]) -> list[tuple[str, int, int | None]]:
        """Applies `lstrip`, `rstrip` and `single_word` of the added tokens to their neighbours, from left to right."""
        for index, (text, place, found) in enumerate(parts):
            if found is None or not text:
                continue
            token = self._added_by_id[found]
            left = parts[index - 1][0] if index > 0 else ""
            right = parts[index + 1][0] if index + 1 < len(parts) else ""
            if token.rstrip and right:
                kept = right.lstrip()
                parts[index + 1] = (kept, parts[index + 1][1] + len(right) - len(kept), None)
            if token.lstrip and left:
                parts[index - 1] = (left.rstrip(), parts[index - 1][1], None)
            if token.single_word and left and left[-1] != " ":
                parts[index - 1] = (parts[index - 1][0] + text, parts[index - 1][1], None)
                parts[index] = ("", place, None)
            elif token.single_word and right and right[0] != " ":
                parts[index + 1] = (text + parts[index + 1][0], place, None)
                parts[index] = ("", place, None)
            if index + 1 < len(parts):
                # The neighbour may be an added token too; what is left of it decides whether it still is one.
                parts[index + 1] = (*parts[index + 1][:2], self._added_ids.get(parts[index + 1][0]))
        return [(text, place, self._added_ids.get(text)) for text, place, _ in parts if text]


def _copy(token: AddedToken, **changes: Any) -> AddedToken:
    """The token with something changed; a new one, since the caller may use the old one elsewhere."""
    fields = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    return AddedToken(token.content, **{**fields, **changes})


def _special(token: Token) -> AddedToken:
    return AddedToken(token, normalized=False, special=True) if isinstance(token, str) else token


class NoTokenError(TokenizerError, AssertionError):
    """Something that is no token, or no list of them; transformers raises an AssertionError."""


def _token_list(name: str, value: Any) -> list[Token]:
    if not isinstance(value, list | tuple) or not all(isinstance(token, Token) for token in value):
        raise NoTokenError(f"`{name}` must be a list of str or AddedToken, got {value!r}.")
    return list(value)
