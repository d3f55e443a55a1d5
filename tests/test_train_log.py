import csv

import numpy as np

from combcn_core.train import Progress
from combcn_core.train_log import TrainingLog


def progress(step, sample=None):
    return Progress(
        step=step,
        steps=10,
        phase="joint",
        losses={"3DCN": 10 / step, "CombCN": 8 / step},
        learning_rate=1e-3,
        seconds=float(step),
        validation={"CombCN": 9.0} if sample is not None else None,
        sample=sample,
    )


def read_steps(log):
    with open(log.path, newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_log_goes_on_where_training_does(tmp_path):
    output = tmp_path / "model.safetensors"
    first = TrainingLog(output)
    for step in (1, 2, 3, 4):
        first.add(progress(step))
    second = TrainingLog(output)
    np.testing.assert_array_equal(second.picture(), first.picture())  # before it has added any
    second.add(progress(3))  # 3 and 4 had not been saved
    assert read_steps(second) == [1, 2, 3]
    with open(second.path, newline="") as file:
        row = list(csv.DictReader(file))[1]
    assert row["CombCN"] == "4.0000"
    assert row["CombCN validation"] == ""


def test_log_keeps_samples(tmp_path):
    log = TrainingLog(tmp_path / "model.safetensors")
    assert log.last_sample() is None
    assert log.picture().shape[2] == 3
    samples = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    log.add(progress(9, samples[0]))
    log.add(progress(10, samples[1]))
    np.testing.assert_array_equal(
        TrainingLog(log.folder.with_name("model.x")).last_sample(), samples[1]
    )
    assert (log.folder / "curve.png").stat().st_size > 0


def test_log_shows_its_curves(tmp_path):
    log = TrainingLog(tmp_path / "model.safetensors")
    empty = log.picture()
    for step in (1, 2, 3):
        log.add(progress(step))
    assert (log.picture() != empty).any()
