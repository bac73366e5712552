import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from moshijax.live.text import TextStream


def train(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the sea is wide and the sky is high"] * 20),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


BYTES = train(byte_fallback=True)
TOKENIZERS = {
    "bytes": BYTES,
    "no bytes": train(),
    "spaces kept": train(byte_fallback=True, remove_extra_whitespaces=False),
    "no prefix": train(byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False),
}


def stream(tokenizer, pieces):
    text = TextStream(tokenizer)
    return [*(text.feed(piece) for piece in pieces), text.end()]


def test_a_character_of_several_bytes_comes_when_it_is_whole():
    told = stream(BYTES, BYTES.encode("the é 日 🙂"))
    assert [part for part in told if part] == [*"the é 日 🙂"]
    cut = BYTES.encode("the é")[:-1]
    assert stream(BYTES, cut)[-2:] == ["", "\ufffd"]
    # A piece after half a character: the half is told, so that nothing is lost.
    assert "".join(stream(BYTES, [*cut, *BYTES.encode("sea")])) == "the \ufffd sea"


def test_a_text_does_not_begin_with_a_space():
    assert "".join(stream(BYTES, BYTES.encode("the sea"))) == "the sea"


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_text_that_streams_is_that_of_all_pieces_at_once(name, data):
    tokenizer = TOKENIZERS[name]
    any_piece = st.integers(0, tokenizer.vocab_size() - 1)
    # With two kinds of pieces drawn as often, there are long runs of bytes and of spaces.
    often = [*filter(tokenizer.is_byte, range(tokenizer.vocab_size())), tokenizer.encode("a")[0]]
    pieces = data.draw(st.lists(any_piece | st.sampled_from(often), max_size=12))
    assert "".join(stream(tokenizer, pieces)) == tokenizer.decode(pieces)
