import re
import shutil

import h5py
import numpy as np
import pytest

from goodnet.choices import Choices
from goodnet.errors import InputError
from goodnet.storage.disk import require_space


@pytest.mark.parametrize("name", [".", "not/yet/there"])
def test_what_fits_passes_and_what_does_not_is_refused_with_the_numbers(tmp_path, name):
    folder = tmp_path / name
    require_space(folder, num_images=1, image_bytes=0)
    require_space(folder, num_images=2, image_bytes=shutil.disk_usage(tmp_path).free // 4)
    with pytest.raises(InputError) as caught:
        require_space(folder, num_images=10**6, image_bytes=10**12)
    free = re.escape(f"{folder}: has ") + r"[\d,]+\.\d{3} GB free, "
    needed = (
        r"expected at least 1,000,000,000\.000 GB for the activations of 1,000,000 images, "
        "1,000,000,000,000 bytes each"
    )
    assert re.fullmatch(free + needed, str(caught.value))


def test_relative_folders_are_looked_up_where_the_process_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_space(tmp_path.relative_to(tmp_path) / "artifacts", num_images=1, image_bytes=1)


def test_a_run_is_refused_before_anything_is_computed(tmp_path):
    """One image's activations take 15 MB and there are a million images: no disk is so large."""
    import keras

    from tasks.loading import load_inputs

    layers = [
        keras.Input((8, 6, 3)),
        keras.layers.UpSampling2D(40),
        keras.layers.Conv2D(50, 1, name="conv"),
        keras.layers.GlobalMaxPooling2D(),
        keras.layers.Dense(5),
    ]
    keras.Sequential(layers).save(tmp_path / "net.keras")
    pixels = np.zeros((500_000, 8, 6, 3), "u1")
    for number, name in enumerate(("valid", "test")):
        pixels[0] = number
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("data", data=pixels, compression="gzip")
            file["label"] = np.zeros(len(pixels), "u1")
    artifacts = tmp_path / "artifacts"
    with pytest.raises(InputError) as caught:
        load_inputs.fn(
            tmp_path / "net.keras",
            {"clean_valid": tmp_path / "valid.h5", "clean_test": tmp_path / "test.h5"},
            Choices(layer="conv", rank_at="conv"),
            refresh=False,
            artifacts=artifacts,
        )
    expected = "GB for the activations of 1,000,000 images, 15,360,200 bytes each"
    assert str(caught.value).endswith(f"expected at least 15,360.200 {expected}")
    assert not list(artifacts.rglob("*.parquet"))
