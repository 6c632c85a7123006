"""The character rules of a SentencePiece model, applied as SentencePiece applies them: longest match, left to right.

The rules come compiled: a double-array trie (darts-clone's layout: 32-bit units with label, offset and leaf bit) from
UTF-8 bytes to positions in a block of NUL-terminated replacements. The `tokenizers` library reads the same block but
applies it per grapheme with the shortest match, which is something else for combining marks, hence this room.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

from ...errors import TokenizerError

Chunk = tuple[int, int, str]
"""Start and end in the text, and what stands there after the rules."""


class CharacterTable(dict[int, str]):
    """For `str.translate`: code point to replacement, filled as code points are first seen."""

    def __init__(self, rules: Charsmap) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, code: int) -> str:
        character = chr(code)
        _, replacement = self.rules.match(character, 0)
        self.rules.note_continuations(character)
        self[code] = replacement
        return replacement


class Charsmap:
    """Compiled character rules.

    Attributes:
        table: what becomes of single characters, for `str.translate`.
        ascii_continues: one of `continuations` is an ASCII character.
        continuations: the characters that can follow in a rule for more than one character, as far as the first
            characters of the rules have been seen. A text without any of them is translated exactly by `table`.
        plain: `table` says all there is about texts of the rules seen so far; False if a replacement holds two spaces
            in a row, which SentencePiece would not squeeze.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.units: array[int] = array("I")
        self.replacements = b""
        if data:
            self._unpack(data)
        self.table = CharacterTable(self)
        self.continuations: set[str] = set()
        self.ascii_continues = False
        self.plain = b"  " not in self.replacements

    def _unpack(self, data: bytes) -> None:
        size = struct.unpack("<I", data[:4])[0] if len(data) >= 4 else 0
        if size == 0 or size % 4 or size > len(data) - 4:
            raise TokenizerError(
                f"`precompiled_charsmap` must hold a trie of whole units, got {size} bytes of {len(data)}. "
                "Download the vocabulary again."
            )
        self.units = array("I", struct.unpack(f"<{size // 4}I", data[4 : 4 + size]))
        self.replacements = data[4 + size :]

    def _step(self, node: int, byte: int) -> tuple[int, int | None] | None:
        """The node after one more byte, and the position of the replacement if a rule ends there."""
        units = self.units
        node ^= byte
        if node >= len(units):
            return None
        unit = units[node]
        if unit & 0x800000FF != byte:
            return None
        node ^= _offset(unit)
        if unit >> 8 & 1 and node < len(units):
            return node, units[node] & 0x7FFFFFFF
        return node, None

    def match(self, text: str, at: int) -> tuple[int, str]:
        """How many characters the longest rule here takes, and what it makes of them; (1, the character) for none."""
        if not self.units:
            return 1, text[at]
        node = _offset(self.units[0])
        taken, found = 1, None
        for index in range(at, len(text)):
            position = None
            for byte in _utf8(text[index]):
                step = self._step(node, byte)
                if step is None:
                    break
                node, position = step
            else:
                if position is not None:
                    taken, found = index + 1 - at, position
                continue
            break
        if found is None:
            return 1, text[at]
        end = self.replacements.find(b"\0", found)
        return taken, self.replacements[found : end if end >= 0 else None].decode("utf-8", "replace")

    def note_continuations(self, character: str) -> None:
        """Adds to `continuations` what can follow this character in a rule for several characters."""
        if not self.units:
            return
        node = _offset(self.units[0])
        for byte in _utf8(character):
            step = self._step(node, byte)
            if step is None:
                return
            node = step[0]
        following = [bytes(key).decode("utf-8", "replace") for key in self._characters(node, bytearray())]
        self.continuations.update(following)
        self.ascii_continues = self.ascii_continues or any(map(str.isascii, following))

    def _characters(self, node: int, prefix: bytearray) -> Iterator[bytearray]:
        """The UTF-8 bytes of each whole character that leads on from this node."""
        first = prefix[0] if prefix else 0
        wanted = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        if prefix and len(prefix) >= wanted:
            yield prefix
            return
        for byte in range(0x80, 0xC0) if prefix else range(1, 0xF8):
            step = self._step(node, byte)
            if step is not None:
                yield from self._characters(step[0], prefix + bytes([byte]))

    def is_exact(self, text: str) -> bool:
        """Whether `text.translate(self.table)` is what the rules make of this text; call it after translating."""
        if not self.plain:
            return False
        return (text.isascii() and not self.ascii_continues) or self.continuations.isdisjoint(text)

    def chunks(self, text: str, symbols: tuple[str, ...] = ()) -> Iterator[Chunk]:
        """The text after the rules, piece by piece; `symbols` (longest first) stay as they are."""
        at = 0
        while at < len(text):
            symbol = next((symbol for symbol in symbols if text.startswith(symbol, at)), None)
            taken, replacement = (len(symbol), symbol) if symbol else self.match(text, at)
            yield at, at + taken, replacement
            at += taken


def _utf8(character: str) -> bytes:
    try:
        return character.encode()
    except UnicodeEncodeError:
        raise TokenizerError(
            f"A text must not hold half of a surrogate pair, got {character!r}. Read it with errors='replace'."
        ) from None


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 512) >> 6)
