"""Language models from files of any layout, and to them."""

from moshijax.convert.lm.model import abstract_lm, load_lm, save_lm


__all__ = ["abstract_lm", "load_lm", "save_lm"]
