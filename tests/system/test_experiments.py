"""The paper's experiments of benchmarks/experiments.py: equal steps, and paired claims."""

import numpy as np
import pytest

from benchmarks import experiments
from combcn_core.training.config import TrainConfig, plan_phases


def test_each_network_takes_as_many_steps_in_every_variant():
    given = TrainConfig(pretrain_steps=20, steps=70)
    large, small = {}, {}
    for name, recipe in experiments.RECIPES.items():
        config = experiments.steps_of(recipe, given)
        lengths = {p.name: p.stop - p.start for p in plan_phases(config, recipe.network)}
        large[name] = lengths.get("joint", 0) + lengths.get("frozen", 0)
        small[name] = lengths.get("pretrain", 0) + lengths.get("joint", 0)
    assert large.pop("3dcn") == 0
    assert set(large.values()) == {70}
    assert small["3dcn"] == small["ours"] == small["v1"] == small["v2"] == 90


def test_claims_are_paired_over_shots(capsys):
    # Two clips of one shot count as one: the differences are -2, -1 and -3; their mean -2, its
    # standard error 1 / sqrt(3).
    ours = {"a.mp4": [7.0, 9.0], "b.mp4": [9.0, 9.0], "c.mp4": [20.0, 22.0], "d.mp4": [1.0, 1.0]}
    other = {"a.mp4": [9.0, 9.0], "b.mp4": [11.0, 13.0], "c.mp4": [22.0, 22.0], "d.mp4": [4.0, 4.0]}
    found = {
        "ours": {"CombCN, box": ours, "CombCN, random-box": other},
        "2dcn": {"2DCN, box": other, "2DCN, random-box": other},
    }
    shots = {"a.mp4": "shot 1", "b.mp4": "shot 1", "c.mp4": "shot 2", "d.mp4": "shot 3"}
    experiments.print_claims(found, shots)
    *_, box, random_box = capsys.readouterr().out.splitlines()
    expected = "| CombCN of ours < 2DCN of 2dcn | box | 6.27 < 6.77, 9.56 < 11.16 | "
    assert box == expected + "10.17 and 12.17 | -2.00 ± 1.15 | 3 of 3 | yes |"
    assert random_box.endswith("| 0 of 3 | not decided |")


@pytest.mark.parametrize(
    ("mean", "standard_error", "expected"),
    [
        (-1.0, 0.4, "yes"),
        (1.0, 0.4, "no"),
        (-1.0, 0.6, "not decided"),
        (-1.0, float("nan"), "not decided"),
    ],
)
def test_two_standard_errors_decide(mean, standard_error, expected):
    gap = experiments.Gap(mean, standard_error, lower=0, pairs=2)
    assert experiments.verdict(gap) == expected


def test_paired_gap_against_numpy():
    first, second = np.random.default_rng(4).normal(20, 5, (2, 7))
    names = [f"clip {number}" for number in range(7)]
    gap = experiments.paired_gap(
        dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))
    )
    difference = first - second
    assert gap.mean == pytest.approx(difference.mean())
    assert gap.standard_error == pytest.approx(difference.std(ddof=1) / np.sqrt(7))
    assert (gap.lower, gap.pairs) == ((difference < 0).sum(), 7)
    assert np.isnan(experiments.paired_gap({"a": 1.0}, {"a": 2.0}).standard_error)


def test_paired_gap_rejects_other_clips():
    with pytest.raises(ValueError, match="2 and 1 clips, 1 of them not in common"):
        experiments.paired_gap({"a": 1.0, "b": 2.0}, {"a": 1.0})
