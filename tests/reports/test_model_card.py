"""The card of a GoodNet: what a stranger reads who has the file alone."""

import re
from dataclasses import replace

import pytest

from goodnet.reports.about import About, Input
from goodnet.reports.model_card import write_model_card
from goodnet.reports.results import (
    DetectorRates,
    GoodNetRates,
    Rates,
    Recommendation,
    Results,
)
from goodnet.storage.run_folder import RunFolder

RATES = {"clean_valid_accuracy": 0.98, "clean_test_accuracy": 0.97, "attack_success_rate": 1.0}
GUARDED = {"clean_valid_accuracy": 0.95, "clean_test_accuracy": 0.94, "attack_success_rate": 0.01}
RESULTS = Results(
    classes=8,
    baseline=Rates(**RATES),
    checkpoints=(),
    remarks=("Some images are in two sets.",),
    detectors=(
        DetectorRates(
            name="joined",
            control=False,
            false_alarm_budget=0.03,
            held_budget=0.031,
            images=1200,
            threshold=2.0,
            auc=0.99,
            detection_rate=0.98,
            false_alarm_rate=0.02,
            goodnet=GoodNetRates(**GUARDED, detection_rate=0.98, false_alarm_rate=0.02),
        ),
    ),
    recommended=Recommendation(
        goodnet="goodnet.keras", repaired=None, verdict="stopped", why="It lets 1.00 % through."
    ),
)
ABOUT = About(
    run="night",
    parameters={"pixel_scale": 255, "channel_order": "rgb", "pixel_mean": []},
    layer="conv",
    rank_at="pool",
    chosen=None,
    inputs={
        "model": Input("/secret/place/b*d_[net](x).h5", sha256="ab" * 32, size=1234),
        "clean_valid": Input("valid.h5", sha256="cd" * 32, size=99, images=1200),
        "poisoned_test": Input("bad|.h5", sha256="ef" * 32, size=99, images=300),
    },
    versions={},
    git_commit="0123456",
    stages=(),
)


@pytest.fixture
def written(tmp_path):
    def card(results=RESULTS, about=ABOUT):
        write_model_card(RunFolder(tmp_path), results=results, about=about)
        return (tmp_path / "MODEL_CARD.md").read_text("utf-8")

    return card


def test_it_says_what_b_was_what_was_measured_on_what_and_limits(written):
    card = written()
    assert re.findall("^#+ (.*)$", card, re.MULTILINE) == [
        *("Model card: goodnet.keras", "What B was", "What was measured", "On what", "Limits"),
        "How it is used",
    ]
    assert f"1,234 bytes, SHA-256 `{'ab' * 32}`" in card
    assert "| B | 98.00 % | 97.00 % | 100.00 % |  |  |" in card
    assert "| goodnet.keras | 95.00 % | 94.00 % | 1.00 % | 98.00 % | 2.00 % |" in card
    assert "**stopped**: It lets 1.00 % through." in card
    assert f"| valid.h5 | 1,200 | {'cd' * 32} |" in card
    assert "- Its threshold holds 3.10 % of false alarms with 95 % confidence, by 1,200" in card
    assert "- Some images are in two sets." in card
    assert "believed = answers < 8" in card
    assert "pixel scale 255" in card


def test_it_names_files_and_no_places_and_no_name_is_markdown(written):
    card = written()
    assert "secret" not in card
    assert "`b*d_[net](x).h5`" in card
    assert "bad\\|.h5" in card


def test_without_poisoned_images_it_claims_nothing_of_an_attack(written):
    unknown = replace(RESULTS, baseline=replace(RESULTS.baseline, attack_success_rate=None))
    assert "nothing is known of what it does to an attack" in written(unknown)


def test_a_run_without_a_calibrated_goodnet_has_none(tmp_path):
    bare = replace(RESULTS, detectors=(), recommended=None)
    write_model_card(RunFolder(tmp_path), results=bare, about=ABOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "B, raw from 0 to 255."),
        ({"pixel_range": [0.0, 255.0], "preprocessing": None}, "B, raw from 0 to 255."),
        ({"pixel_range": [0.0, 1.0]}, "B, prepared as for B (pixel range 0 1)."),
        ({"preprocessing": "caffe"}, "B, prepared as for B (preprocessing caffe)."),
        (
            {"pixel_mean": (0.5, 0.25, 0.5), "channel_order": "bgr"},
            "B, prepared as for B (pixel mean 0.5 0.25 0.5, channel order bgr).",
        ),
    ],
)
def test_pixels_are_said_as_a_command_takes_them(parameters, said, written):
    assert f"It takes the same pixels as {said} " in written(
        about=replace(ABOUT, parameters=parameters)
    )
