import csv

import numpy as np

from combcn_core.training.log import TrainingLog
from combcn_core.training.train import TrainingStep


def progress(step, sample=None):
    return TrainingStep(
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


def test_log_has_what_training_yields(tmp_path):
    log = TrainingLog(tmp_path / "model.v2.safetensors")
    assert log.path == tmp_path / "model.v2_log" / "log.csv"
    log.add(progress(1, np.zeros((8, 8, 3), np.uint8)))
    with open(log.path, newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "step": "1",
        "phase": "joint",
        "learning_rate": "0.001",
        "seconds": "1.0",
        "3DCN": "10.0000",
        "3DCN validation": "",
        "CombCN": "8.0000",
        "CombCN validation": "9.0000",
    }


def test_log_that_was_cut_or_edited_does_not_end_a_training(tmp_path):
    output = tmp_path / "model.safetensors"
    log = TrainingLog(output)
    for step in (1, 2, 3, 4):
        log.add(progress(step))
    lines = log.path.read_text().splitlines()
    lines[1] = lines[1].replace("10.0000", "ten")
    lines[2] += ",one,column,more"
    lines[3] = "seconds, step, what not"
    log.path.write_bytes("\n".join([*lines[:4], "4,jo"]).encode() + b"\xff\0\0")
    again = TrainingLog(output)
    again.picture()
    again.add(progress(5))
    assert read_steps(again) == [1, 2, 4, 5]
    again.picture()
    for content in (b"", b"\xff\xfe\n1", b"no,log\n1,2\n"):
        log.path.write_bytes(content)
        again = TrainingLog(output)
        again.picture()
        again.add(progress(1))
        assert read_steps(again) == [1]
