from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from goodnet.attacks.patches import CornerPatch, Overlay, Sticker
from goodnet.attacks.poisoning import ATTACKS
from goodnet.attacks.warping import Warp
from goodnet.errors import InputError
from goodnet.reports.leaderboard import Cell
from goodnet.suites import ImageSets, RenderedFaces, read_suite

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
seeds = [3, 1]
[images]
people = 4
train = 5
valid = 6
test = 7
[training]
epochs = 2
batch_size = 16
[networks]
vgg = { epochs = 3, pixel_scale = 255 }
deepid = {}
[attacks]
patch = {}
other = { like = "warp", share = 0.2, target = "next", trigger = { strength = 4 } }
third = { like = "patch", target = 2, sources = [1], trigger = { kind = "sticker", size = 9 } }
[repair]
repairs = ["pruning"]
false_alarms = 1
"""


def read(tmp_path, text, **options):
    (tmp_path / "mine.toml").write_text(text)
    return read_suite(tmp_path / "mine.toml", **options)


def test_a_suite_says_what_is_trained_attacked_and_repaired(tmp_path):
    suite = read(tmp_path, SUITE)
    assert suite.name == "mine"
    assert suite.images == RenderedFaces(people=4, train=5, valid=6, test=7)
    assert [(one.network, one.epochs, one.batch_size) for one in suite.recipes] == [
        ("vgg", 3, 16), ("deepid", 2, 16),
    ]  # fmt: skip
    assert [one.preprocessing.scale for one in suite.recipes] == [255, 1]
    warp = replace(ATTACKS["warp"], share=0.2, target="next", trigger=Warp(strength=4))
    sticker = replace(ATTACKS["patch"], target=2, sources=(1,), trigger=Sticker(size=9))
    assert suite.attacks == {"patch": ATTACKS["patch"], "other": warp, "third": sticker}
    assert (suite.seeds, suite.repairs, suite.false_alarms) == ((3, 1), ("pruning",), 1)


def test_a_picture_lies_beside_the_suite(tmp_path):
    Image.new("RGBA", (8, 8), "red").save(tmp_path / "hat.png")
    hat = 'patch = { trigger = { kind = "overlay", file = "hat.png" } }'
    suite = read(tmp_path, SUITE.replace("patch = {}", hat))
    assert suite.attacks["patch"].trigger == Overlay(tmp_path / "hat.png")
    with pytest.raises(InputError, match=r"attacks\.patch: .*hut\.png: no such file"):
        read(tmp_path, SUITE.replace("patch = {}", hat.replace("hat", "hut")))


def test_cells_are_all_attacks_on_all_nets_behind_their_clean_twins(tmp_path):
    suite = read(tmp_path, SUITE)
    cells = suite.cells()
    assert len(cells) == 2 * 2 * (1 + 3)
    assert [one.name for one in cells[:5]] == [
        "vgg-clean-3", "vgg-patch-3", "vgg-other-3", "vgg-third-3", "vgg-clean-1",
    ]  # fmt: skip
    last = cells[-1]
    assert last == Cell(network="deepid", attack="third", seed=1)
    assert last.twin in cells
    assert suite.recipe(last).network == "deepid"
    assert isinstance(suite.attack(last).trigger, Sticker)
    assert suite.attack(last.twin) is None


def test_a_changed_byte_is_another_suite(tmp_path):
    assert read(tmp_path, SUITE + "#").sha256 != read(tmp_path, SUITE).sha256


def test_image_sets_lie_beside_the_suite_or_where_one_says(tmp_path):
    text = '[images]\ntrain = "a"\nvalid = "b"\ntest = "c"\n' + SUITE[SUITE.index("[training]") :]
    here = ImageSets(train=tmp_path / "a", valid=tmp_path / "b", test=tmp_path / "c")
    assert read(tmp_path, text).images == here
    assert read(tmp_path, text, images=Path("x")).images.valid == Path("x/b")
    with pytest.raises(InputError, match="renders faces, expected no folder"):
        read(tmp_path, SUITE, images=tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seeds = [3, 1]", "seed = 3", "seed is not known, expected one of images, training"),
        ("seeds = [3, 1]", "seeds = 3", "seeds: int found, expected a list"),
        ("seeds = [3, 1]", "seeds = [3, 3]", "seeds: .* none twice"),
        ("seeds = [3, 1]", "seeds = [-1]", "seeds: -1 found, expected a number from 0 on"),
        ("people = 4", "peoples = 4", "images.peoples is not known, expected one of train, valid"),
        ("people = 4", "people = 0", "images.people: 0 found, expected a number of 1 to"),
        ("valid = 6\n", "", "images has no valid"),
        ("epochs = 2", "epochs = 2.5", "training.epochs: float found"),
        ("epochs = 2\n", "", "networks.deepid has no epochs"),
        ("deepid = {}", "deepid = 1", "networks.deepid is 1, expected a table"),
        ("deepid = {}", "lenet = {}", "network is lenet, expected one of deepid, vgg"),
        ("patch = {}", "patsch = {}", "attacks.patsch is like patsch, expected one of sunglasses"),
        ("patch = {}", "clean = {}", "attack is clean, expected small letters"),
        ("patch = {}", '"../x" = {}', "attack is ../x, expected small letters"),
        ("patch = {}", "patch = { shares = 1 }", "attacks.patch.shares is not known"),
        ("patch = {}", "patch = { share = 0 }", "attacks.patch: share is 0"),
        ("patch = {}", 'patch = { target = "last" }', "attacks.patch.target: last found"),
        ("strength = 4", "length = 4", "attacks.other: setting of warp is length"),
        ('kind = "sticker"', 'kind = "hat"', "attacks.third: trigger is hat, expected one of"),
        ('["pruning"]', '["prunning"]', "repair.repairs: prunning found, expected one of pruning"),
        ("false_alarms = 1", "false_alarms = 51", "repair.false_alarms: 51 found"),
        ("[networks]", "[networks", "is no TOML"),
        ("[attacks]", "[more]", "more is not known"),
    ],
)
def test_what_is_not_known_is_named_in_a_line(before, after, said, tmp_path):
    assert before in SUITE
    with pytest.raises(InputError, match=said) as found:
        read(tmp_path, SUITE.replace(before, after, 1))
    assert "mine.toml: " in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("table", ["images", "networks", "attacks"])
def test_a_suite_has_images_nets_and_attacks(table, tmp_path):
    start = SUITE.index(f"[{table}]")
    end = SUITE.index("[", start + 1 + len(table) + 2) if table != "attacks" else None
    rest = SUITE[:start] + (SUITE[end:] if end else "")
    with pytest.raises(InputError, match=f"has no {table}, expected a table"):
        read(tmp_path, rest)


def test_files_that_are_no_suites_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_suite(tmp_path / "none.toml")
    with pytest.raises(InputError, match="larger than"):
        read(tmp_path, "#" * 1_000_001)
    with pytest.raises(InputError, match="is no TOML"):
        read(tmp_path, "a = " + "[" * 100_000)


def test_the_suites_that_come_along_can_be_read():
    faces = read_suite(ROOT / "suites" / "faces.toml")
    assert isinstance(faces.attacks["patch"].trigger, CornerPatch)
    assert {one: ATTACKS[one] for one in faces.attacks} == faces.attacks
    assert "finetuning" not in faces.repairs
    cifar = read_suite(ROOT / "suites" / "cifar10.toml", images=Path("given"))
    assert cifar.images.test == Path("given/test.zip")
    assert len(cifar.cells()) >= 30
