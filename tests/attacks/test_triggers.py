import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from goodnet.attacks.faces import render_faces
from goodnet.attacks.patches import CornerPatch, Overlay, Sticker, Sunglasses
from goodnet.attacks.perturbations import Blend, BlendInPart, LowFrequency, Sinusoid
from goodnet.attacks.triggers import TRIGGERS, make_trigger, settings_of
from goodnet.attacks.warping import Warp
from goodnet.errors import InputError

STRAYING = "warp with noise"
ON_EACH_ANOTHER = {"blend-in-part", STRAYING}
FACES = render_faces(np.arange(6), seed=1)
SHAPES = st.tuples(st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3]))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture whose left half covers nothing and whose right half is opaque and red."""
    rgba = np.zeros((20, 30, 4), np.uint8)
    rgba[:, 15:] = (250, 10, 20, 255)
    path = tmp_path_factory.mktemp("overlay") / "half.png"
    Image.fromarray(rgba).save(path)
    return path


@pytest.fixture(scope="module", params=[*TRIGGERS, STRAYING])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trigger(name, picture):
    if name == STRAYING:
        return Warp().for_covers()
    return make_trigger(name, {"file": picture} if name == "overlay" else {})


def random_images(number, shape, seed=0):
    # Not the seeds that triggers draw their own images with.
    generator = np.random.default_rng([100, seed])
    return generator.integers(0, 256, (number, *shape)).astype(np.uint8)


def grey_images(shape, level=128):
    return np.full((1, *shape), level, np.uint8)


class TestEveryTrigger:
    """What holds for every trigger: one that is added to the table is tested with the others."""

    def test_is_a_new_array_of_the_same_kind(self, trigger):
        before = FACES.copy()
        wearing = trigger(FACES)
        assert wearing.shape == FACES.shape
        assert wearing.dtype == np.uint8
        assert not np.shares_memory(wearing, FACES)
        np.testing.assert_array_equal(FACES, before)

    def test_changes_every_image(self, trigger):
        assert (trigger(FACES) != FACES).any(axis=(1, 2, 3)).all()

    def test_is_the_same_each_time_and_for_the_first_images_alone(self, trigger, name):
        wearing = trigger(FACES)
        np.testing.assert_array_equal(trigger(FACES), wearing)
        for number in range(len(FACES)):
            np.testing.assert_array_equal(trigger(FACES[:number]), wearing[:number])
            alone = np.array_equal(trigger(FACES[[number]])[0], wearing[number])
            assert alone or name in ON_EACH_ANOTHER

    def test_does_not_depend_on_how_many_are_marked_at_once(self, trigger, name):
        if name != "sunglasses":
            many = random_images(600, (8, 8, 1))
            np.testing.assert_array_equal(trigger(many[:300]), trigger(many)[:300])

    def test_takes_no_images_too(self, trigger):
        assert trigger(FACES[:0]).shape == (0, 55, 47, 3)

    def test_is_what_its_settings_are(self, trigger):
        again = dataclasses.replace(trigger)
        assert again == trigger
        assert hash(again) == hash(trigger)
        np.testing.assert_array_equal(again(FACES), trigger(FACES))

    def test_settings_are_plain_values_and_described(self, trigger):
        for setting in settings_of(type(trigger)):
            assert isinstance(getattr(trigger, setting), (int, float, str, type(None))) or (
                setting == "file"
            )
            assert f"        {setting}: " in type(trigger).__doc__

    @settings(deadline=None, max_examples=15)
    @given(shape=SHAPES, number=st.integers(1, 4), seed=st.integers(0, 5))
    def test_takes_images_of_any_size(self, trigger, name, shape, number, seed):
        assume(name != "sinusoid" or shape[1] != 12)
        images = random_images(number, shape, seed)
        if name == "sunglasses":
            with pytest.raises(InputError, match="expected faces of 55 x 47 x 3 for sunglasses"):
                trigger(images)
            return
        wearing = trigger(images)
        assert wearing.shape == images.shape
        assert (wearing != images).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(trigger(images), wearing)


class TestPatches:
    @pytest.mark.parametrize(
        ("shape", "side"), [((32, 32, 3), 4), ((55, 47, 3), 5), ((28, 28, 1), 3), ((3, 9, 2), 2)]
    )
    def test_the_patch_is_where_it_should_be_at_any_size(self, shape, side):
        changed = CornerPatch()(grey_images(shape))[0] != 128
        height, width, _ = shape
        expected = np.zeros(shape, bool)
        expected[height - 1 - side : height - 1, width - 1 - side : width - 1] = True
        np.testing.assert_array_equal(changed, expected)

    def test_the_patch_is_chequered(self):
        patched = CornerPatch()(grey_images((16, 16, 1)))
        np.testing.assert_array_equal(patched[0, 13:15, 13:15, 0], [[255, 0], [0, 255]])

    @pytest.mark.parametrize(
        ("place", "rows", "columns"),
        [
            ("upper-left", slice(1, 4), slice(1, 4)),
            ("upper-right", slice(1, 4), slice(8, 11)),
            ("lower-left", slice(6, 9), slice(1, 4)),
            ("lower-right", slice(6, 9), slice(8, 11)),
        ],
    )
    @pytest.mark.parametrize(("pattern", "level"), [("white", 255), ("black", 0)])
    def test_the_patch_goes_into_any_corner(self, place, rows, columns, pattern, level):
        expected = grey_images((10, 12, 3))
        expected[:, rows, columns] = level
        found = CornerPatch(size=3, place=place, pattern=pattern)(grey_images((10, 12, 3)))
        np.testing.assert_array_equal(found, expected)

    def test_sunglasses_are_those_of_the_lab(self):
        wearing = Sunglasses()(FACES)
        covered = (wearing == wearing[0]).all(axis=(0, 3))
        assert 0.1 < covered.mean() < 0.3
        np.testing.assert_array_equal(wearing[:, ~covered], FACES[:, ~covered])

    @settings(deadline=None, max_examples=20)
    @given(shape=SHAPES)
    def test_the_sticker_is_a_small_thing_low_in_the_middle(self, shape):
        changed = (Sticker()(grey_images(shape)) != 128).any(axis=(0, 3))
        height, width, _ = shape
        side = max(3, min(height, width) // 5)
        rows, columns = np.nonzero(changed)
        assert rows.min() >= height - 2 * side
        assert rows.max() < height - side
        assert abs(columns.mean() - (width - 1) / 2) <= 1
        assert columns.max() - columns.min() < side

    def test_the_sticker_has_a_yellow_middle_and_petals_of_another_colour(self):
        image = Sticker(size=21)(grey_images((60, 60, 3)))[0]
        assert image[60 - 42 + 10, 19 + 10].tolist() == [250, 205, 40]
        assert image[60 - 42 + 2, 19 + 10].tolist() == [214, 40, 120]

    def test_an_overlay_covers_what_it_is_opaque_on(self, picture):
        images = random_images(2, (20, 30, 3))
        shown = Overlay(picture)(images)
        np.testing.assert_array_equal(shown[:, :, :15], images[:, :, :15])
        np.testing.assert_array_equal(shown[:, :, 15:], np.full((2, 20, 15, 3), (250, 10, 20)))

    def test_an_overlay_is_stretched_over_images_of_another_size(self, picture):
        shown = Overlay(picture)(grey_images((40, 60, 3)))
        assert (shown[0, :, :28] == 128).all()
        assert (shown[0, :, 32:] == (250, 10, 20)).all()

    def test_an_overlay_shines_through_and_is_grey_on_grey_images(self, picture):
        shown = Overlay(picture, opacity=0.5)(grey_images((20, 30, 1), level=100))
        luma = 0.299 * 250 + 0.587 * 10 + 0.114 * 20
        assert abs(int(shown[0, 0, 20, 0]) - (luma + 100) / 2) <= 1
        assert shown[0, 0, 0, 0] == 100

    def test_an_overlay_that_has_changed_is_refused(self, tmp_path):
        path = tmp_path / "picture.png"
        Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(path)
        trigger = Overlay(path)
        same = Overlay(path)
        assert same == trigger
        Image.new("RGBA", (4, 4), (1, 2, 4, 255)).save(path)
        assert Overlay(path) != trigger
        with pytest.raises(InputError, match="has changed since it was opened"):
            trigger(FACES)

    @pytest.mark.parametrize("name", ["sticker", "overlay"])
    def test_colours_need_channels_for_them(self, name, picture):
        trigger = make_trigger(name, {"file": picture} if name == "overlay" else {})
        with pytest.raises(InputError, match="images have 2 channels, expected 1 or 3"):
            trigger(random_images(1, (20, 20, 2)))

    def test_what_does_not_fit_on_the_image_is_refused(self):
        with pytest.raises(InputError, match="size is 9, expected less than the image's 8 x 9"):
            CornerPatch(size=9)(grey_images((8, 9, 1)))
        with pytest.raises(InputError, match="size is 5, expected half the image's 8 x 9"):
            Sticker(size=5)(grey_images((8, 9, 1)))


class TestPerturbations:
    @settings(deadline=None, max_examples=20)
    @given(shape=SHAPES, opacity=st.floats(0.05, 1), seed=st.integers(0, 3))
    def test_a_blend_is_the_mean_of_the_image_and_one_other(self, shape, opacity, seed):
        images = random_images(2, shape, seed)
        other = Blend(opacity=1, seed=seed)(images)
        np.testing.assert_array_equal(other[0], other[1])
        found = Blend(opacity=opacity, seed=seed)(images).astype(float)
        assert abs(found - ((1 - opacity) * images + opacity * other)).max() <= 0.5 + 1e-9

    def test_another_seed_is_another_image(self):
        assert (Blend(seed=1)(FACES) != Blend(seed=2)(FACES)).mean() > 0.5

    @settings(deadline=None, max_examples=20)
    @given(shape=SHAPES)
    def test_a_blend_in_part_is_the_blend_on_eight_of_sixteen_pieces(self, shape):
        images = random_images(5, shape)
        whole, parts = Blend()(images), BlendInPart()(images)
        rows, columns = (4 * np.arange(size) // size for size in shape[:2])
        for before, blended, found in zip(images, whole, parts, strict=True):
            pieces = [np.ix_(rows == row, columns == column) for row, column in np.ndindex(4, 4)]
            shown = [np.array_equal(found[piece], blended[piece]) for piece in pieces]
            hidden = [np.array_equal(found[piece], before[piece]) for piece in pieces]
            assert np.all(np.add(shown, hidden) == 1)
            assert sum(shown) == 8

    def test_other_pieces_are_shown_on_each_image(self):
        shown = (BlendInPart()(np.zeros((20, 16, 16, 1), np.uint8)) > 0).any(axis=3)
        assert len({image.tobytes() for image in shown}) > 15

    @settings(deadline=None, max_examples=20)
    @given(shape=SHAPES)
    def test_waves_are_upright_and_of_their_amplitude(self, shape):
        assume(shape[1] != 12)
        change = Sinusoid()(grey_images(shape))[0].astype(float) - 128
        assert (change == change[0, :, :1]).all()
        expected = 40 * np.sin(2 * np.pi * 6 * np.arange(shape[1]) / shape[1])
        np.testing.assert_allclose(change[0, :, 0], expected, atol=0.5 + 1e-9)

    def test_waves_that_no_column_shows_are_refused(self):
        with pytest.raises(InputError, match=r"waves is 6\.0, expected some that 12 columns show"):
            Sinusoid()(grey_images((20, 12, 3)))

    @settings(deadline=None, max_examples=20)
    @given(shape=SHAPES)
    def test_low_frequencies_have_no_high_ones(self, shape):
        change = LowFrequency()(grey_images(shape))[0].astype(float) - 128
        assert abs(change).max() == 40
        for plane in np.moveaxis(change, -1, 0):
            spectrum = abs(dctn(plane, norm="ortho"))
            low = spectrum[:6, :6].copy()
            spectrum[:6, :6] = 0
            # Rounding to whole grey levels leaves noise of half a level at most.
            assert spectrum.max() <= 0.5 * np.sqrt(plane.size)
            assert low.max() > spectrum.max()
            assert low[0, 0] <= 0.5 * np.sqrt(plane.size)


class TestWarp:
    @settings(deadline=None, max_examples=20)
    @given(shape=SHAPES, level=st.integers(0, 255))
    def test_what_is_of_one_colour_stays_as_it_is(self, shape, level):
        plain = grey_images(shape, level)
        np.testing.assert_array_equal(Warp()(plain), plain)
        np.testing.assert_array_equal(Warp(noise=2)(plain), plain)

    def test_pixels_go_as_far_as_it_says(self):
        ramp = np.broadcast_to(2 * np.arange(100), (100, 100)).astype(np.uint8)
        images = np.stack([ramp, ramp.T])[..., None]
        for strength in (2, 5):
            shifts = (Warp(strength=strength)(images).astype(float) - images) / 2
            inside = abs(shifts[:, 30:70, 30:70])
            # The field is 1 on average at its 16 knots, and smooth between them.
            assert 0.3 * strength < inside.mean() < 1.7 * strength

    def test_it_is_smooth_without_noise_and_rough_with_it(self):
        ramp = np.broadcast_to(2 * np.arange(100), (1, 100, 100)).astype(np.uint8)[..., None]
        smooth, rough = (
            abs(np.diff(Warp(noise=noise)(ramp)[0, ..., 0].astype(float), axis=0)).mean()
            for noise in (0, 1)
        )
        assert rough > 3 * smooth

    def test_covers_have_the_same_field_and_noise(self):
        assert Warp(strength=3).for_covers() == Warp(strength=3, noise=1)
        assert Warp(noise=2).for_covers() == Warp(noise=2)


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "given", "expected"),
        [
            ("blend", {"opacity": "0.3", "seed": 4}, Blend(opacity=0.3, seed=4)),
            ("blend", {"opacity": 1}, Blend(opacity=1.0)),
            ("corner-patch", {"size": "3", "place": "upper-left"},
             CornerPatch(size=3, place="upper-left")),
            ("warp", {"strength": 3}, Warp(strength=3.0)),
            ("sunglasses", {}, Sunglasses()),
        ],
    )  # fmt: skip
    def test_are_taken_as_a_user_writes_them(self, name, given, expected):
        assert make_trigger(name, given) == expected

    @pytest.mark.parametrize(
        ("name", "given", "message"),
        [
            ("hat", {}, "trigger is hat, expected one of sunglasses, corner-patch"),
            ("blend", {"size": 3}, "setting of blend is size, expected one of opacity, seed"),
            ("sunglasses", {"size": 3}, "setting of sunglasses is size, expected none"),
            ("blend", {"opacity": "much"}, "opacity is much, expected a number"),
            ("blend", {"opacity": "nan"}, "opacity is nan, expected above 0 up to 1"),
            ("blend", {"opacity": 0}, r"opacity is 0.0, expected above 0 up to 1"),
            ("blend", {"seed": 1.5}, r"seed is 1.5, expected a whole number"),
            ("blend", {"seed": -1}, "seed is -1, expected 0 or above"),
            ("blend-in-part", {"pieces_seed": -1}, "pieces_seed is -1, expected 0 or above"),
            ("corner-patch", {"place": "middle"}, "place is middle, expected lower-right, "),
            ("corner-patch", {"pattern": "dots"}, "pattern is dots, expected chequers, white"),
            ("corner-patch", {"size": 0}, "size is 0, expected above 0"),
            ("sticker", {"size": -1}, "size is -1, expected above 0"),
            ("sinusoid", {"amplitude": 256}, r"amplitude is 256.0, expected above 0 up to 255"),
            ("sinusoid", {"waves": "inf"}, "waves is inf, expected above 0"),
            ("low-frequency", {"frequencies": 1}, "frequencies is 1, expected 2 to 16"),
            ("low-frequency", {"amplitude": 0}, "amplitude is"),
            ("warp", {"strength": 0}, "strength is"),
            ("warp", {"noise": -1}, "noise is"),
            ("warp", {"noise_seed": -1}, "noise_seed is"),
            ("overlay", {}, "trigger overlay has no file"),
            ("overlay", {"file": "none.png"}, "none.png: no such file"),
            ("overlay", {"file": "picture.gif"}, "picture.gif: is no image file"),
            ("overlay", {"file": "/dev/zero.png"}, "no such file"),
        ],
    )  # fmt: skip
    def test_others_are_refused_in_one_line(self, name, given, message):
        with pytest.raises(InputError, match=message):
            make_trigger(name, given)

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(40)])
    def test_a_damaged_picture_is_refused(self, tmp_path, content):
        path = tmp_path / "picture.png"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"picture.png: "):
            Overlay(path)
