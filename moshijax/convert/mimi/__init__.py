"""Mimi from files of any layout, and to them."""

from moshijax.convert.mimi.model import abstract_mimi, load_mimi, save_mimi


__all__ = ["abstract_mimi", "load_mimi", "save_mimi"]
