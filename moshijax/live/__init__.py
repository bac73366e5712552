"""Streams of a row at a time, without input or output: a codec's and a session's."""
