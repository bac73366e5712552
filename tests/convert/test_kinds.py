from tests.convert.lm.released import refused, written


def test_what_is_of_no_known_kind_is_refused_with_the_known_ones(tmp_path):
    for fields in ({}, {"a": 1}, {"model_type": "llama", "hidden_size": 8}, {"model_type": [1]}):
        message = refused(written(tmp_path, fields))
        assert "no model that is read here" in message
        for known in ("dim, num_layers, n_q", "helium (as --lm)", "mimi (as --mimi)"):
            assert known in message
    for fields in ({"model_type": "mimi"}, {"seanet": {}, "quantizer": {}, "transformer": {}}):
        message = refused(written(tmp_path, fields))
        assert "is of Mimi, the codec, where a language model is wanted" in message
