"""Between our configuration of a text model and the `config.json` of transformers' Helium."""

from collections.abc import Mapping

from moshijax.convert.fields import Fields, Json
from moshijax.convert.lm.read import MLP_WIDTH, NUMBER, ROWS, WIDTH, build
from moshijax.lm.config import MoshiConfig


EPSILON = 1e-8  # of the norms
LOADER = "transformers' HeliumConfig"


def transformers_config(config: MoshiConfig) -> dict[str, Json]:
    """Returns what transformers' HeliumConfig needs to build the same model of text."""
    return {
        "architectures": ["HeliumForCausalLM"],
        "model_type": "helium",
        "vocab_size": config.text_vocab,
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.dim // config.num_heads,
        "max_position_embeddings": config.context,
        "rope_theta": config.max_period,
        "rms_norm_eps": 1e-8,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "pad_token_id": config.text_padding,
    }


def from_helium(table: Mapping[str, object], where: str = "config.json") -> MoshiConfig:
    """Reads the fields of Helium's `config.json`; what is absent has transformers' defaults.

    Raises:
        UserError: a field has a value that Helium here does not have.
    """
    fields = Fields(table, where)
    dim = fields.integer("hidden_size", 1, WIDTH, 2560)
    heads = fields.integer("num_attention_heads", 1, WIDTH, 20)
    vocab = fields.integer("vocab_size", 2, ROWS, 48000)
    for name, known, default in (
        ("num_key_value_heads", heads, 20),
        ("hidden_act", "silu", "silu"),
        ("attention_bias", False, False),
        ("mlp_bias", False, False),
        ("tie_word_embeddings", False, False),
        ("rms_norm_eps", EPSILON, EPSILON),
        ("rope_scaling", None, None),
    ):
        fields.only(name, known, default, LOADER)
    if heads * fields.integer("head_dim", 1, WIDTH, 128) != dim:
        fields.fail("head_dim", f"times num_attention_heads, {heads}, is not hidden_size, {dim}")
    return build(
        fields,
        dim=dim,
        num_heads=heads,
        num_layers=fields.integer("num_hidden_layers", 1, NUMBER, 24),
        mlp_dim=fields.integer("intermediate_size", 1, MLP_WIDTH, 7040),
        context=fields.integer("max_position_embeddings", 1, ROWS, 4096),
        max_period=_max_period(fields),
        text_vocab=vocab,
        num_codebooks=0,
        codebook_size=2048,  # Not used: there are no codebooks.
        delays=(0,),
        depth=None,
        text_padding=_padding(fields, vocab),
    )


def _max_period(fields: Fields) -> float:
    """The base of RoPE: newer versions of transformers have it in an object `rope_parameters`."""
    rotary = fields.object("rope_parameters")
    rotary.only("rope_type", "default", "default", LOADER)
    if "rope_theta" in rotary:
        return rotary.number("rope_theta", 1, 1e12)
    return fields.number("rope_theta", 1, 1e12, 100000.0)


def _padding(fields: Fields, vocab: int) -> int:
    """The piece of padding; null says that there is none, and the model then takes the default."""
    if fields.get("pad_token_id", 3) is None:
        return 3
    return fields.integer("pad_token_id", 0, vocab - 1, 3)
