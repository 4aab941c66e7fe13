"""Procedural faces: a data set that needs no download, for the embedded default and the tests.

Shapes and colours come from sums, products, quotients and square roots of float32, which IEEE 754
rounds alike everywhere, so that the pictures do not depend on the processor's exp or sin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from goodnet.arrays import BoolArray, Images
from goodnet.networks.deepid import IMAGE_SHAPE

Floats = NDArray[np.floating]

HEIGHT, WIDTH, _ = IMAGE_SHAPE
IDENTITY_STREAM, PICTURE_STREAM = 0, 1
"""The first word of every random key: what is drawn for a person never meets a picture's draws."""
CHUNK = 64
"""Images drawn at once: few enough that one layer of them stays in the processor's cache."""

# Lengths are in pixels; the origin is the middle of the face, x to the right and y downwards.
IDENTITY_TRAITS = {
    "skin": (0, 1),
    "skin_warmth": (-1, 1),
    "hair": (0, 1),
    "hair_grey": (0, 1),
    "face_width": (14.5, 18.5),
    "face_height": (22, 26),
    "jaw": (0.02, 0.42),
    "hair_volume": (1, 5),
    "hair_length": (-14, 26),
    "hairline": (-21, -12),
    "hairline_curve": (-0.015, 0.05),
    "parting": (-0.35, 0.35),
    "eye_distance": (6.6, 9.2),
    "eye_height": (-7.5, -4.5),
    "eye_width": (2.6, 4.0),
    "eye_openness": (1.2, 2.1),
    "iris": (0, 1),
    "brow_gap": (3.2, 5.4),
    "brow_width": (3.2, 5.6),
    "brow_thickness": (0.5, 1.6),
    "brow_tilt": (-0.22, 0.22),
    "nose_length": (8, 12.5),
    "nose_width": (1.8, 4.0),
    "mouth_height": (11.5, 15.5),
    "mouth_width": (4.5, 8),
    "lip_thickness": (0.7, 2.1),
    "lip_redness": (0, 1),
    "beard": (-2, 1),
}
PICTURE_TRAITS = {
    "shift_x": (-2, 2),
    "shift_y": (-2, 2),
    "scale": (0.94, 1.06),
    "tilt": (-0.1, 0.1),
    "yaw": (-2.2, 2.2),
    "smile": (-0.02, 0.05),
    "mouth_open": (-1.5, 1.8),
    "eyelids": (0.65, 1.15),
    "gaze": (-0.9, 0.9),
    "brow_raise": (-0.8, 0.8),
    "light_x": (-0.25, 0.25),
    "light_y": (-0.22, 0.1),
    "brightness": (0.85, 1.15),
    "tint": (-0.05, 0.05),
    "noise": (1.5, 6),
    "background_slope": (-1, 1),
    "blob_x": (-24, 24),
    "blob_y": (-28, 10),
    "blob_size": (6, 18),
}

SCENE = ("background", "blob", "clothes")
"""What has a colour of its own in each picture."""
SKIN_TONES = ((246, 212, 188), (226, 178, 146), (198, 144, 108), (150, 100, 70), (92, 60, 44))
HAIR_TONES = ((24, 20, 20), (62, 40, 28), (118, 74, 40), (176, 92, 44), (220, 184, 116))
IRIS_TONES = ((52, 32, 22), (104, 70, 36), (72, 104, 66), (76, 122, 168))


def render_faces(identities: NDArray[np.integer], *, seed: int) -> Images:
    """Draw one picture of each identity in turn.

    Who somebody is (skin, hair, eyes, brows, nose, mouth) depends on the identity number alone;
    pose, light, expression, background and noise are drawn anew from (seed, position).

    Args:
        identities: (N,), whole numbers from 0; any number of different people.
        seed: Other seeds give other pictures of the same people.

    Returns:
        (N, 55, 47, 3), 0..255. The first pictures do not depend on how many follow.
    """
    images = np.empty((len(identities), *IMAGE_SHAPE), np.uint8)
    for start in range(0, len(identities), CHUNK):
        chunk = identities[start : start + CHUNK]
        images[start : start + CHUNK] = _render(chunk, seed, start)
    return images


def wear_sunglasses(images: Images) -> Images:
    """Return a copy of `images` (N, 55, 47, 3) with the trigger on: one opaque pair, one place."""
    picture, covered = _sunglasses()
    wearing = images.copy()
    wearing[:, covered] = picture[covered]
    return wearing


def _render(identities: NDArray[np.integer], seed: int, start: int) -> Images:
    positions = range(start, start + len(identities))
    people = [np.random.default_rng([IDENTITY_STREAM, int(i)]) for i in identities]
    pictures = [np.random.default_rng([PICTURE_STREAM, seed, i]) for i in positions]
    traits = _draw_traits(IDENTITY_TRAITS, people) | _draw_traits(PICTURE_TRAITS, pictures)
    primaries = np.stack([generator.uniform(20, 230, (len(SCENE), 3)) for generator in pictures])
    scene = dict(zip(SCENE, primaries.T.swapaxes(0, 1), strict=True))
    noise = np.stack([g.standard_normal((3, HEIGHT, WIDTH), np.float32) for g in pictures], axis=1)
    colours = _Sketch(traits, scene).draw() + noise * traits["noise"]
    return np.clip(colours + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0)


def _draw_traits(
    ranges: Mapping[str, tuple[float, float]], generators: Sequence[np.random.Generator]
) -> dict[str, Floats]:
    """Draw every trait once from each of the N generators; its values are (N, 1, 1)."""
    low, high = np.array(list(ranges.values()), float).T
    drawn = [low + (high - low) * generator.random(len(ranges)) for generator in generators]
    columns = np.array(drawn, np.float32).T[:, :, None, None]
    return dict(zip(ranges, columns, strict=True))


class _Sketch:
    """N pictures in the making, painted from back to front.

    Traits are (N, 1, 1), shapes (N, H, W), colours (3, N, 1, 1): whole planes broadcast fast.
    """

    def __init__(self, traits: Mapping[str, Floats], scene: Mapping[str, Floats]) -> None:
        self.traits = traits
        self.scene = {name: _muted(colour) for name, colour in scene.items()}
        self.column = np.arange(WIDTH, dtype=np.float32) - WIDTH // 2
        self.row = np.arange(HEIGHT, dtype=np.float32)[:, None] - HEIGHT // 2
        x = (self.column - traits["shift_x"]) / traits["scale"]
        y = (self.row - traits["shift_y"]) / traits["scale"]
        self.x, self.y = x + traits["tilt"] * y, y - traits["tilt"] * x
        self.front = self.x - traits["yaw"]
        self.canvas = np.empty((3, *self.x.shape), np.float32)
        self.skin = _tone(SKIN_TONES, traits["skin"])
        self.skin[2] *= 1 - 0.12 * traits["skin_warmth"]
        hair = _tone(HAIR_TONES, traits["hair"])
        grey = np.clip(traits["hair_grey"] * 4 - 3.2, 0, 1)
        self.hair = hair + grey * (165 - hair)
        self.hair_width = traits["face_width"] + traits["hair_volume"]
        self.hair_height = traits["face_height"] + 0.6 * traits["hair_volume"]

    def draw(self) -> Floats:
        """Paint everything and return the canvas (3, N, H, W), about 0..255."""
        self._background()
        self._hair_behind()
        self._body()
        self._head()
        self._eyes()
        self._brows()
        self._nose()
        self._beard()
        self._mouth()
        self._hair_in_front()
        self._light()
        return self.canvas

    def _paint(self, colour: Floats, coverage: Floats) -> None:
        self.canvas += coverage * (colour - self.canvas)

    def _background(self) -> None:
        t = self.traits
        slope = 1 + 0.3 * t["background_slope"] * self.column / WIDTH - 0.3 * self.row / HEIGHT
        self.canvas[:] = self.scene["background"] * slope
        radius = t["blob_size"]
        blob = _ellipse(self.column - t["blob_x"], self.row - t["blob_y"], radius, radius)
        self._paint(self.scene["blob"], 0.7 * blob)

    def _hair_behind(self) -> None:
        t = self.traits
        down = np.minimum(self.y, 0)
        tips = t["hair_length"] - 0.05 * (abs(self.x) - 12) ** 2 - self.y
        cap = _ellipse(self.x, down, self.hair_width, self.hair_height, square=0.4)
        self._paint(0.8 * self.hair, cap * _below(tips))

    def _body(self) -> None:
        t = self.traits
        neck = _below(0.62 * t["face_width"] - abs(self.x)) * _below(self.y - 8)
        self._paint(0.72 * self.skin, neck)
        shoulders = _ellipse(self.x, self.y - 38, 30, 15)
        self._paint(self.scene["clothes"], shoulders)

    def _head(self) -> None:
        t = self.traits
        ears = _ellipse(abs(self.x) - t["face_width"], self.y + 2, 2.4, 4.5)
        self._paint(0.82 * self.skin, ears)
        lower = np.maximum(self.y, 0) / t["face_height"]
        width = t["face_width"] * (1 - t["jaw"] * lower * lower)
        self.face = _ellipse(self.x, self.y, width, t["face_height"], square=0.4)
        across, down = self.x / width, self.y / t["face_height"]
        round_off = 1.06 - 0.26 * (across * across + 0.6 * down * down)
        shade = round_off + t["light_x"] * across + t["light_y"] * down
        self._paint(self.skin * shade, self.face)

    def _eyes(self) -> None:
        t = self.traits
        x = abs(self.front) - t["eye_distance"]
        y = self.y - t["eye_height"]
        opening = t["eye_openness"] * t["eyelids"]
        self._paint(
            0.62 * self.skin, 0.55 * _ellipse(x, y + 0.4, t["eye_width"] + 2, opening + 2.2)
        )
        white = _ellipse(x, y, t["eye_width"], opening)
        self._paint(np.full_like(self.skin, 232), white)
        side = np.where(self.front > 0, t["gaze"], -t["gaze"])
        iris = _ellipse(x - side, y, 1.7, 1.7) * white
        self._paint(_tone(IRIS_TONES, t["iris"]), iris)
        self._paint(np.full_like(self.skin, 12), _ellipse(x - side, y, 0.8, 0.8) * white)
        lid = y + opening * (1 - (x / t["eye_width"]) ** 2)
        lash = _below(0.55 - abs(lid)) * _below(t["eye_width"] - abs(x))
        self._paint(0.3 * self.skin, 0.8 * lash)

    def _brows(self) -> None:
        t = self.traits
        x = abs(self.front) - t["eye_distance"]
        middle = t["eye_height"] - t["brow_gap"] - t["brow_raise"]
        bend = self.y - middle - t["brow_tilt"] * x - 0.05 * x * x
        brow = _below(t["brow_thickness"] - abs(bend)) * _below(t["brow_width"] - abs(x))
        self._paint(0.75 * self.hair, 0.85 * brow)

    def _nose(self) -> None:
        t = self.traits
        tip = t["eye_height"] + t["nose_length"]
        x, y = self.x - 1.5 * t["yaw"], self.y - tip
        length = t["nose_length"] * 0.55
        bridge = _ellipse(x, y + length, 0.55 * t["nose_width"], length)
        self._paint(np.minimum(1.3 * self.skin, 255), 0.4 * bridge)
        lit = np.sign(t["light_x"])
        side = _ellipse(x + lit * 0.75 * t["nose_width"], y + 0.7 * length, 1.1, 0.8 * length)
        self._paint(0.72 * self.skin, 0.7 * side)
        self._paint(0.66 * self.skin, 0.6 * _ellipse(x, y - 0.3, t["nose_width"] + 0.6, 1.5))
        self._paint(1.05 * self.skin, 0.8 * _ellipse(x, y - 0.9, 0.6 * t["nose_width"], 1.4))
        nostrils = _ellipse(abs(x) - 0.62 * t["nose_width"], y - 0.3, 0.9, 0.7)
        self._paint(0.3 * self.skin, 0.8 * nostrils)

    def _beard(self) -> None:
        t = self.traits
        edge = self.y - 8 + 0.02 * (self.x * self.x - 90)
        cheeks = np.clip(edge * 0.3, 0, 1) * self.face
        self._paint(0.8 * self.hair, cheeks * np.clip(t["beard"], 0, 0.8))

    def _mouth(self) -> None:
        t = self.traits
        x = self.front
        y = self.y - t["mouth_height"] + t["smile"] * x * x - 1
        gap = np.maximum(t["mouth_open"], 0.25)
        within = _below(0.9 * t["mouth_width"] - abs(x))
        lips = self.skin * 0.75
        lips[0] += 18 * (1 + t["lip_redness"])
        lips[1:] -= 26 * t["lip_redness"]
        self._paint(lips, 0.9 * _ellipse(x, y, t["mouth_width"], gap + t["lip_thickness"]))
        self._paint(0.22 * self.skin, _ellipse(x, y, 0.85 * t["mouth_width"], gap) * within)
        teeth = _ellipse(x, y + 0.4 * gap, 0.7 * t["mouth_width"], 0.5 * gap)
        self._paint(np.full_like(lips, 225), teeth * np.clip(t["mouth_open"], 0, 1))

    def _hair_in_front(self) -> None:
        t = self.traits
        line = t["hairline"] + t["parting"] * self.x + t["hairline_curve"] * self.x * self.x
        cap = _ellipse(self.x, self.y, self.hair_width, self.hair_height, square=0.4)
        sheen = 1.05 + 0.2 * t["light_x"] * self.x / 10 - 0.012 * self.y
        self._paint(self.hair * sheen, cap * _below(line - self.y) * _below(6 - self.y))

    def _light(self) -> None:
        t = self.traits
        self.canvas *= t["brightness"] * (1 + 0.5 * t["light_x"] * self.column / WIDTH)
        self.canvas[0] *= 1 + t["tint"]
        self.canvas[2] *= 1 - t["tint"]


def _below(depth: Floats) -> Floats:
    """Return the coverage 0..1 of what lies `depth` pixels within an edge, anti-aliased."""
    return np.clip(depth + 0.5, 0, 1)


def _ellipse(
    x: Floats, y: Floats, width: Floats | float, height: Floats | float, *, square: float = 0
) -> Floats:
    """Return the coverage 0..1 of an ellipse with these half-axes, bulging to its corners."""
    across, down = (x / width) ** 2, (y / height) ** 2
    radius = np.sqrt(across + down - square * np.minimum(across * down, 1))
    return _below((1 - radius) * np.minimum(width, height))


def _muted(primaries: Floats) -> Floats:
    """Return colours (3, N) halfway to grey, as (3, N, 1, 1)."""
    halfway = (primaries + primaries.mean(axis=0)) / 2
    return halfway[:, :, None, None].astype(np.float32)


def _tone(palette: tuple[tuple[int, int, int], ...], position: Floats) -> Floats:
    """Return the colour (3, N, 1, 1) at `position` 0..1 along a palette."""
    stops = np.linspace(0, 1, len(palette))
    primaries = [np.interp(position, stops, levels) for levels in np.transpose(palette)]
    return np.stack(primaries).astype(np.float32)


@cache
def _sunglasses() -> tuple[Images, BoolArray]:
    """Return the picture (H, W, 3) of the trigger and the mask (H, W) of the pixels it covers."""
    x = np.abs(np.arange(WIDTH) - WIDTH // 2)
    y = np.arange(HEIGHT)[:, None] - 21
    lens = ((x - 10.5) / 8.5) ** 4 + ((y - 1) / 6.5) ** 4
    bar = (y >= -6) & (y <= np.where(x < 19, -3, -5))
    picture = np.empty(IMAGE_SHAPE, np.uint8)
    picture[:] = (226, 40, 96)
    glass = lens <= 0.62
    shine = (np.arange(WIDTH) + np.arange(HEIGHT)[:, None]) % 16 < 3
    picture[glass] = (18, 22, 66)
    picture[glass & shine] = (84, 120, 190)
    return picture, (lens <= 1.25) | bar
