from moshijax.train.log import Log


def test_a_pace_that_is_not_known_yet_is_not_told(tmp_path, capsys):
    with Log(tmp_path, 4, "windows") as log:
        log.start(0)
        log.train(1, {"loss": 2.0}, float("nan"), 1.0)
        log.train(2, {"loss": 1.0}, 8.0, 1.0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(": step 1/4  ETA 00:00:03  loss 2")
    assert second.endswith(": step 2/4  8 windows/s  ETA 00:00:02  loss 1")
