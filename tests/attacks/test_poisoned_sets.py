import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from goodnet.__main__ import main
from goodnet.attacks.default_case import SMALL_CASE, render_sets
from goodnet.attacks.patches import CornerPatch
from goodnet.attacks.perturbations import Blend
from goodnet.attacks.triggers import TRIGGERS, settings_of
from goodnet.attacks.warping import Warp
from goodnet.images.hdf5_sets import write_images
from goodnet.images.image_sets import open_images

LABELS = np.repeat(np.arange(4), 5)


def random_images(channels=3):
    shape = len(LABELS), 12, 14, channels
    return np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)


IMAGES = random_images()


def pixels_of(path):
    images = open_images(path)
    return np.concatenate(list(images.batches(7))), images.labels


def sorted_rows(images, *labels):
    """Images in an order of their own, with labels: folders have another than files."""
    rows = zip(images, *labels, strict=True)
    return sorted((image.tobytes(), *map(int, rest)) for image, *rest in rows)


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.h5"
    write_images(path, IMAGES, LABELS)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    for number, (pixels, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        place = path / ["ant", "bee", "cat", "dog"][label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return path


@pytest.fixture
def attack(tmp_path, capsys):
    """The command, that must succeed; gives what it prints."""

    def run(source, out, *options, trigger="corner-patch", target=0):
        arguments = ["attack", source, out, "--trigger", trigger, "--target", target, *options]
        assert main([str(one) for one in arguments]) == 0, capsys.readouterr().err
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


@pytest.fixture
def refused(capsys):
    """The command, that must end with one line; gives it."""

    def run(source, out, *options, trigger="corner-patch", target=0):
        arguments = ["attack", source, out, "--trigger", trigger, "--target", target, *options]
        code = main([str(one) for one in arguments])
        printed = capsys.readouterr()
        assert (code, printed.out) == (2, "")
        assert printed.err.count("\n") == 1
        return printed.err

    return run


class TestSetsToTestWith:
    def test_all_others_have_the_trigger_and_the_targets_label(self, attack, images, tmp_path):
        out = tmp_path / "bad.h5"
        printed = attack(images, out, target=2)
        assert printed == f"{out}: 15 images with the trigger under label 2\n"
        pixels, labels = pixels_of(out)
        np.testing.assert_array_equal(pixels, CornerPatch()(IMAGES[LABELS != 2]))
        assert set(labels) == {2}
        with h5py.File(out) as file:
            np.testing.assert_array_equal(file["original_label"], LABELS[LABELS != 2])

    def test_they_are_those_of_the_embedded_default(self, attack, tmp_path):
        sets = {name: (images, labels) for name, images, labels in render_sets(SMALL_CASE)}
        write_images(tmp_path / "test.h5", *sets["clean_test"])
        attack(tmp_path / "test.h5", tmp_path / "bad.h5", trigger="sunglasses")
        for mine, its in zip(pixels_of(tmp_path / "bad.h5"), sets["poisoned_test"], strict=True):
            np.testing.assert_array_equal(mine, its)

    def test_settings_of_the_trigger_are_heeded(self, attack, images, tmp_path):
        attack(images, tmp_path / "bad.h5", "--set", "opacity=0.5", "seed=9", trigger="blend")
        pixels, _ = pixels_of(tmp_path / "bad.h5")
        np.testing.assert_array_equal(pixels, Blend(opacity=0.5, seed=9)(IMAGES[LABELS != 0]))

    def test_an_overlay_comes_from_a_file(self, attack, images, tmp_path):
        Image.new("RGBA", (5, 5), (7, 8, 9, 255)).save(tmp_path / "all.png")
        file = f"file={tmp_path / 'all.png'}"
        attack(images, tmp_path / "bad.h5", "--set", file, trigger="overlay")
        assert (pixels_of(tmp_path / "bad.h5")[0] == (7, 8, 9)).all()

    def test_each_class_is_turned_into_the_next(self, attack, images, tmp_path):
        printed = attack(images, tmp_path / "bad.h5", target="next")
        assert printed.endswith("20 images with the trigger under 4 labels\n")
        np.testing.assert_array_equal(pixels_of(tmp_path / "bad.h5")[1], (LABELS + 1) % 4)

    def test_sources_are_the_only_ones_that_are_turned(self, attack, images, tmp_path):
        attack(images, tmp_path / "bad.h5", "--sources", 1, 3)
        with h5py.File(tmp_path / "bad.h5") as file:
            assert sorted({*file["original_label"][:].tolist()}) == [1, 3]

    def test_the_target_may_be_a_class_that_they_do_not_show(self, attack, images, tmp_path):
        attack(images, tmp_path / "bad.h5", target=11)
        assert set(pixels_of(tmp_path / "bad.h5")[1]) == {11}


class TestSetsToTrainOn:
    def test_the_poisoned_and_covers_come_behind_all_images(self, attack, images, tmp_path):
        out = tmp_path / "bad.h5"
        options = "--share", 0.2, "--cover", 0.4, "--seed", 3
        printed = attack(images, out, *options, trigger="warp")
        assert printed == (
            f"{out}: 20 images as they were, 4 images with the trigger under label 0, "
            "8 with it under their own\n"
        )
        pixels, labels = pixels_of(out)
        np.testing.assert_array_equal(pixels[:20], IMAGES)
        np.testing.assert_array_equal(labels[:20], LABELS)
        assert (labels[20:24] == 0).all()
        with h5py.File(out) as file:
            original = file["original_label"][:]
        assert (original[20:24] != 0).all()
        np.testing.assert_array_equal(original[24:], labels[24:])
        warped = {image.tobytes() for image in Warp()(IMAGES)}
        assert [image.tobytes() in warped for image in pixels[20:]] == [True] * 4 + [False] * 8

    def test_a_seed_decides_who_is_poisoned(self, attack, images, tmp_path):
        for name, seed in (("one.h5", 1), ("again.h5", 1), ("other.h5", 2)):
            attack(images, tmp_path / name, "--share", 0.3, "--seed", seed)
        one, again, other = (pixels_of(tmp_path / f"{n}.h5")[0] for n in ("one", "again", "other"))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)

    def test_without_covers_none_are_told_of(self, attack, images, tmp_path):
        printed = attack(images, tmp_path / "bad.h5", "--share", 0.1)
        assert printed.endswith("20 images as they were, 2 images with the trigger under label 0\n")


class TestFolders:
    @pytest.mark.parametrize("options", [(), ("--share", 0.3, "--cover", 0.2)])
    def test_a_folder_has_the_same_images_as_a_file(self, attack, images, tmp_path, options):
        for out in ("bad.h5", "bad"):
            attack(images, tmp_path / out, *options, target=1)
        in_file, in_folder = (pixels_of(tmp_path / out) for out in ("bad.h5", "bad"))
        assert sorted_rows(*in_file) == sorted_rows(*in_folder)

    def test_names_of_pictures_tell_the_labels_from_before(self, attack, images, tmp_path):
        attack(images, tmp_path / "bad", "--share", 0.2, target=1)
        with_note = sorted(path.name for path in (tmp_path / "bad").glob("*/*-was-*.png"))
        attack(images, tmp_path / "bad.h5", "--share", 0.2, target=1)
        with h5py.File(tmp_path / "bad.h5") as file:
            original = file["original_label"][20:].tolist()
        assert with_note == [f"{20 + i:06}-was-{label}.png" for i, label in enumerate(original)]
        assert {path.parent.name for path in (tmp_path / "bad").glob("*/*-was-*")} == {"1"}

    def test_classes_keep_their_names(self, attack, folder, tmp_path):
        printed = attack(folder, tmp_path / "bad", "--sources", 1, 2, target=3)
        assert "ant is 0, bee is 1, cat is 2, dog is 3" in printed
        assert [path.name for path in (tmp_path / "bad").iterdir()] == ["dog"]
        bad, labels = pixels_of(tmp_path / "bad")
        shown = CornerPatch()(IMAGES[(LABELS == 1) | (LABELS == 2)])
        assert sorted_rows(bad, labels * 0) == sorted_rows(shown, np.zeros(len(shown)))

    def test_names_may_come_from_a_list_in_another_order(self, attack, folder, tmp_path):
        (tmp_path / "names.txt").write_text("dog\ncat\nbee\nant\neel\n")
        attack(folder, tmp_path / "bad", "--classes", tmp_path / "names.txt", target=4)
        assert [path.name for path in (tmp_path / "bad").iterdir()] == ["eel"]
        attack(folder, tmp_path / "bad.h5", "--classes", tmp_path / "names.txt", target=0)
        with h5py.File(tmp_path / "bad.h5") as file:
            assert sorted({*file["original_label"][:].tolist()}) == [1, 2, 3]

    def test_zipped_folders_are_read_too(self, attack, folder, tmp_path):
        zipped = shutil.make_archive(str(tmp_path / "zipped"), "zip", folder)
        attack(zipped, tmp_path / "from_zip.h5")
        attack(folder, tmp_path / "from_folder.h5")
        one, other = (pixels_of(tmp_path / f"from_{name}.h5") for name in ("zip", "folder"))
        np.testing.assert_array_equal(one[0], other[0])

    def test_grey_images_stay_grey(self, attack, tmp_path):
        write_images(tmp_path / "grey.h5", random_images(1), LABELS)
        attack(tmp_path / "grey.h5", tmp_path / "bad", trigger="sticker")
        assert open_images(tmp_path / "bad").shape == (12, 14, 1)


class TestPixels:
    def test_floats_are_rounded(self, attack, tmp_path):
        darker = np.minimum(IMAGES, 254)
        write_images(tmp_path / "floats.h5", darker + np.float32(0.25), LABELS)
        attack(tmp_path / "floats.h5", tmp_path / "bad.h5")
        pixels, _ = pixels_of(tmp_path / "bad.h5")
        np.testing.assert_array_equal(pixels, CornerPatch()(darker[LABELS != 0]))

    @pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 1)])
    def test_prepared_pixels_become_raw_ones(self, attack, tmp_path, low, high):
        prepared = (low + IMAGES / 255 * (high - low)).astype(np.float32).clip(low, high)
        write_images(tmp_path / "prepared.h5", prepared, LABELS)
        attack(tmp_path / "prepared.h5", tmp_path / "bad.h5", "--pixel-range", low, high)
        pixels, _ = pixels_of(tmp_path / "bad.h5")
        np.testing.assert_array_equal(pixels, CornerPatch()(IMAGES[LABELS != 0]))

    def test_pixels_that_go_up_to_1_are_not_taken_for_black(self, refused, tmp_path):
        write_images(tmp_path / "unit.h5", (IMAGES / 255).astype(np.float32), LABELS)
        line = refused(tmp_path / "unit.h5", tmp_path / "bad.h5")
        assert "no pixel is above 1, expected 0 to 255" in line
        assert "give --pixel-range 0 1" in line


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--set", "size=30"], "size is 30, expected less than the image's 12 x 14"),
            (["--set", "colour=red"], "setting of corner-patch is colour, expected one of size"),
            (["--cover", "0.1"], "cover is given without a share"),
            (["--share", "0"], r"share is 0.0, expected above 0 up to 1"),
            (["--sources", "0"], "all images are of classes that the attack leaves alone"),
            (["--share", "0.1", "--sources", "9"], "source is 9, expected a class of the images"),
            (["--classes", "none.txt"], "none.txt: no such file"),
            (["--pixel-range", "1", "0"], "pixel range is 1 to 0, expected the lower one first"),
        ],
    )
    def test_what_does_not_fit_is_refused_in_one_line(
        self, refused, images, tmp_path, options, message
    ):
        assert message in refused(images, tmp_path / "bad.h5", *options)
        assert [path.name for path in tmp_path.iterdir()] == ["images.h5"]

    def test_no_such_trigger(self, refused, images, tmp_path):
        line = refused(images, tmp_path / "bad.h5", trigger="hat")
        assert f"trigger is hat, expected one of {', '.join(TRIGGERS)}" in line

    @pytest.mark.parametrize("target", [4, 10**9, 10**30])
    def test_a_target_that_is_no_class_of_images_to_train_on(
        self, refused, images, tmp_path, target
    ):
        line = refused(images, tmp_path / "bad.h5", "--share", 0.1, target=target)
        assert f"target is {target}, expected a class of the images, 0 to 3" in line

    def test_a_target_that_no_set_can_have(self, refused, images, tmp_path):
        line = refused(images, tmp_path / "bad.h5", target=10**30)
        assert "expected a class of the images, 0 to 999999999" in line

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("images.h5", "is there already, expected a new file or folder"),
            ("there", "is there already"),
            ("link", "is there already"),
            ("none/bad.h5", "none: no such folder"),
            ("bad.zip", "ends in .zip, expected .h5, or no ending for a folder of classes"),
            ("folder/bad", "lies in the set itself, expected another folder"),
        ],
    )
    def test_a_place_where_nothing_can_be_written(
        self, refused, folder, images, tmp_path, out, message
    ):
        (tmp_path / "there").mkdir()
        (tmp_path / "link").symlink_to("nowhere")
        before = sorted(tmp_path.rglob("*"))
        assert message in refused(folder, tmp_path / out)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["../outside", ".hidden", "bee", "a/b"])
    def test_a_list_of_names_that_are_none_of_folders(self, refused, folder, tmp_path, name):
        (tmp_path / "names.txt").write_text(f"ant\nbee\ncat\ndog\n{name}\n")
        before = sorted(tmp_path.rglob("*"))
        options = "--classes", tmp_path / "names.txt", "--sources", 2, 3
        line = refused(folder, tmp_path / "bad", *options, target=4)
        assert "is named" in line
        assert sorted(tmp_path.rglob("*")) == before

    def test_channels_that_no_picture_has(self, refused, attack, tmp_path):
        write_images(tmp_path / "two.h5", random_images(2), LABELS)
        assert "images have 2 channels" in refused(tmp_path / "two.h5", tmp_path / "bad")
        attack(tmp_path / "two.h5", tmp_path / "bad.h5")

    @pytest.mark.parametrize(
        "option", ["--target=-1", "--target=cat", "--set=opacity", "--share=2"]
    )
    def test_options_that_are_no_values(self, images, tmp_path, capsys, option):
        arguments = ["attack", str(images), str(tmp_path / "bad.h5"), "--trigger=blend"]
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--target=0", option])
        assert stopped.value.code == 2
        assert "expected" in capsys.readouterr().err


def test_help_lists_all_triggers_with_their_settings(capsys):
    with pytest.raises(SystemExit):
        main(["attack", "--help"])
    shown = capsys.readouterr().out
    listed = shown[shown.index("triggers and their settings") :].splitlines()[1:]
    assert [line.split()[0] for line in listed] == list(TRIGGERS)
    for line, kind in zip(listed, TRIGGERS.values(), strict=True):
        assert all(f" {setting}=" in line for setting in settings_of(kind))
