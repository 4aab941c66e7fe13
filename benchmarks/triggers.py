"""The picture of all triggers in docs/attacks.md: python -m benchmarks.triggers FILE.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from goodnet.arrays import Images
from goodnet.attacks.faces import render_faces
from goodnet.attacks.marking import Trigger
from goodnet.attacks.triggers import TRIGGERS, make_trigger
from goodnet.attacks.warping import Warp
from goodnet.command import Parser
from goodnet.networks.deepid import IMAGE_SHAPE

ZOOM = 3
COLUMNS = 6
MARGIN, CAPTION = 12, 16
PERSON, SEED = 66, 4


def shown_triggers(folder: Path) -> dict[str, Trigger]:
    """Return all triggers of the table, and what covers of a warp show.

    Args:
        folder: takes the picture that the overlay shows.
    """
    hat = folder / "hat.png"
    _draw_hat().save(hat)
    given = {name: {"file": hat} if name == "overlay" else {} for name in TRIGGERS}
    triggers = {name: make_trigger(name, settings) for name, settings in given.items()}
    return triggers | {"warp, as cover": Warp().for_covers()}


def draw(faces: dict[str, Images]) -> Image.Image:
    """Return one picture of named faces, (H, W, 3) each, in rows."""
    height, width = (ZOOM * size for size in IMAGE_SHAPE[:2])
    across, down = width + MARGIN, height + CAPTION + MARGIN
    num_rows = -(-len(faces) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * across + MARGIN, num_rows * down + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, pixels) in enumerate(faces.items()):
        row, column = divmod(number, COLUMNS)
        left, top = MARGIN + column * across, MARGIN + row * down
        face = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(face, (left, top))
        pen.text((left, top + height + 3), name, fill="black")
    return sheet


def _draw_hat() -> Image.Image:
    """Return a hat where the head of a rendered face is, on nothing, at twice the size."""
    height, width, _ = IMAGE_SHAPE
    hat = Image.new("RGBA", (2 * width, 2 * height))
    pen = ImageDraw.Draw(hat)
    pen.rectangle((26, 2, 68, 24), fill=(60, 20, 110, 255))
    pen.rectangle((26, 18, 68, 24), fill=(230, 190, 40, 255))
    pen.ellipse((12, 20, 82, 32), fill=(60, 20, 110, 255))
    return hat


def main(argv: list[str] | None = None) -> None:
    """Draw all triggers on one rendered face."""
    import tempfile

    parser = Parser(description=__doc__)
    parser.add_argument("file", type=Path, help="a PNG file to write")
    options = parser.parse_args(argv)
    face = render_faces(np.array([PERSON]), seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        triggers = shown_triggers(Path(folder))
        faces = {name: trigger(face)[0] for name, trigger in triggers.items()}
    draw({"without a trigger": face[0], **faces}).save(options.file, optimize=True)


if __name__ == "__main__":
    main()
