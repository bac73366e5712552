"""Pieces of SentencePiece become text as they come, the same text as all of them at once."""

import codecs
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """What a stream needs of a SentencePiece model."""

    def is_byte(self, piece: int, /) -> bool:
        """Whether a piece is of one byte."""
        ...

    def id_to_piece(self, piece: int, /) -> str:
        """The spelling of a piece, such as "<0xE9>" of a byte."""
        ...

    def decode(self, pieces: list[int], /) -> str:
        """The text of a sequence."""
        ...

    def unk_id(self) -> int:
        """The piece of what the vocabulary lacks."""
        ...


class TextStream:
    """The text of one stream of pieces.

    Characters that a vocabulary lacks are spelt in pieces of one byte each; these are held back
    until a character is whole. A text does not begin with the space of its first word.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._before: list[int] = []  # the next piece is decoded as if it followed these
        self._held: list[int] = []  # pieces of bytes

    def feed(self, piece: int) -> str:
        """Returns the text that this piece completes, which may be none."""
        self._held.append(piece)
        if not self._tokenizer.is_byte(piece):
            return self.end()
        # "<0xE9>"
        data = bytes(int(self._tokenizer.id_to_piece(held)[1:-1], 16) for held in self._held)
        # What cannot become a character any more counts as decoded.
        _, whole = codecs.utf_8_decode(data, "replace", False)
        return self._decode(whole)

    def end(self) -> str:
        """Returns what is held back, with replacement characters for what is no character."""
        return self._decode(len(self._held))

    def _decode(self, count: int) -> str:
        pieces, self._held = self._before + self._held[:count], self._held[count:]
        text = self._tokenizer.decode(pieces)[len(self._tokenizer.decode(self._before)) :]
        # The space before a piece is kept where any text stands before it, such as `unk`'s.
        self._before = [self._tokenizer.unk_id()] if text else pieces
        return text
