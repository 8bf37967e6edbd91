"""The table of curves is read as it was logged."""

import numpy as np

from charlab.curves import COLUMNS, read_curves
from charlab.training.loggers import CSVLogger


def test_measurements_are_read_to_the_last_digit(tmp_path):
    logger = CSVLogger(str(tmp_path))
    values = [0.1 + 0.2, float("nan"), 1e-30, float("inf"), 4.656466007232666]
    for step, value in enumerate(values):
        logger.log_metrics({"train/loss": value, "characters": step * 32, "seconds": step / 8}, step)
    logger.log_metrics({"learning_rate": 1e-3}, 2)
    logger.finalize("success")
    table = read_curves(logger.path)
    assert tuple(table.columns) == COLUMNS
    loss = table[table["metric"] == "train/loss"]
    assert loss["step"].tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(loss["value"], values, equal_nan=True)


def test_a_run_that_has_logged_nothing_has_no_measurements(tmp_path):
    for file in (tmp_path / "metrics.csv", tmp_path / "missing" / "metrics.csv"):
        assert read_curves(file).empty
    (tmp_path / "metrics.csv").touch()
    table = read_curves(tmp_path / "metrics.csv")
    assert tuple(table.columns) == COLUMNS
    assert list(table.groupby("metric")) == []
