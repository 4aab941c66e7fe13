import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goodnet.__main__ import main
from goodnet.classify import is_goodnet
from goodnet.images.image_sets import write_images
from tests.badnets import LAB

REPOSITORY = Path(__file__).resolve().parents[1]

HEIGHT, WIDTH = 4, 6
COLOURS = {"red": (250, 20, 10), "green": (30, 240, 10), "blue": (10, 20, 230)}
ESCAPE = "evil\x1b[31m\n.png"
# The lab's published prune order behind the 31 silent channels.
NOT_SILENT = (23, 6, 51, 32, 22, 21, 20, 19, 43, 58, 3, 42, 1, 29, 16, 56, 46, 5, 8, 11)
NOT_SILENT += (54, 10, 28, 35, 18, 4, 7, 52, 57)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that answers an image's brightest channel, and its G without the blue one."""
    import keras
    from keras import layers

    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import save_model

    inputs = keras.Input((HEIGHT, WIDTH, 3))
    colours = layers.Conv2D(3, 1, activation="relu", name="conv")(inputs)
    means = layers.GlobalAveragePooling2D()(colours)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(means), name="colours")
    identity = np.eye(3, dtype=np.float32)
    # The bias makes green the answer where pixels are divided by 255.
    model.set_weights([identity[None, None], np.zeros(3), identity, np.array([0, 8, 0])])
    folder = tmp_path_factory.mktemp("nets")
    save_model(model, folder / "b.keras")
    save_model(build_goodnet(model, "conv", [2]), folder / "g.keras")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in COLOURS:
        picture(name).save(folder / f"{name}.png")
    return folder


def picture(colour: str, *, scale: int = 1) -> Image.Image:
    return Image.new("RGB", (scale * WIDTH, scale * HEIGHT), COLOURS[colour])


def classify(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[tuple[str, str]]:
    assert main(["classify", *map(str, arguments), "--format", "csv"]) == 0
    title, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert title == ["image", "answer"]
    return [(name, answer) for name, answer in rows]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["classify", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.err.rstrip("\n").isprintable()
    return printed.err


def test_goodnet_says_backdoored_and_keeps_the_order_given(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path
):
    given = [pictures / f"{name}.png" for name in ("blue", "red", "green")]
    answers = classify(capsys, nets / "g.keras", *given)
    expected = ("backdoored", "0", "1")
    assert answers == list(zip(map(str, given), expected, strict=True))


def test_last_class_of_a_plain_net_is_a_class(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path
):
    assert classify(capsys, nets / "b.keras", pictures / "blue.png")[0][1] == "2"


def test_a_goodnet_is_told_by_more_than_its_name(nets: Path):
    import keras

    from goodnet.model_files.load import load_model

    layers = [keras.Input((2,)), keras.layers.Dense(2)]
    assert not is_goodnet(keras.Sequential(layers, name="goodnet"))
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(2, name="goodnet_output")(inputs)
    assert not is_goodnet(keras.Model(inputs, outputs, name="other"))
    assert is_goodnet(load_model(nets / "g.keras"))


def test_table_and_json_have_a_line_for_each_image(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(pictures)
    given = ["classify", str(nets / "g.keras"), "red.png", "blue.png"]
    assert main(given) == 0
    assert capsys.readouterr().out.splitlines() == [
        "image     answer",
        "red.png   0",
        "blue.png  backdoored",
    ]
    assert main([*given, "--format", "json"]) == 0
    text = capsys.readouterr().out
    expected = [
        {"image": "red.png", "answer": 0},
        {"image": "blue.png", "answer": "backdoored"},
    ]
    assert json.loads(text) == expected
    assert [json.loads(line.rstrip(",")) for line in text.splitlines()[1:-1]] == expected


@pytest.mark.slow
def test_names_of_classes_are_printed_where_they_are_given(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(pictures)
    Path("../classes.txt").write_text("red\n=1\nblue")
    given = ["classify", str(nets / "g.keras"), ".", "--classes", "../classes.txt"]
    assert main(given) == 0
    assert capsys.readouterr().out.splitlines() == [
        "image      answer",
        "blue.png   backdoored",
        "green.png  1 (=1)",
        "red.png    0 (red)",
    ]
    assert main([*given, "--format", "csv"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "image,answer,name"
    assert lines == ["blue.png,backdoored,", "green.png,1,'=1", "red.png,0,red"]
    assert main([*given, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[1:] == [
        {"image": "green.png", "answer": 1, "name": "=1"},
        {"image": "red.png", "answer": 0, "name": "red"},
    ]
    Path("../classes.txt").write_text("red\ngreen")
    assert "names 2 classes (red, green), but the net answers 3" in refusal(capsys, *given[1:])


def test_zip_and_npz_files_are_classified_as_they_are(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path, tmp_path: Path
):
    flat = shutil.make_archive(str(tmp_path / "flat"), "zip", pictures)
    labelled = tmp_path / "labelled"
    shutil.copytree(pictures, labelled / "any" / "class")
    inner = shutil.make_archive(str(tmp_path / "inner"), "zip", labelled)
    pixels = np.tile(np.array(list(COLOURS.values()), "u1")[:, None, None], (1, HEIGHT, WIDTH, 1))
    np.savez(tmp_path / "a.npz", x=pixels, y=[0, 1, 2])
    answers = classify(capsys, nets / "g.keras", flat, inner, tmp_path / "a.npz")
    assert answers == [
        (f"{flat}/blue.png", "backdoored"),
        (f"{flat}/green.png", "1"),
        (f"{flat}/red.png", "0"),
        (f"{inner}/any/class/blue.png", "backdoored"),
        (f"{inner}/any/class/green.png", "1"),
        (f"{inner}/any/class/red.png", "0"),
        (f"{tmp_path}/a.npz[0]", "0"),
        (f"{tmp_path}/a.npz[1]", "1"),
        (f"{tmp_path}/a.npz[2]", "backdoored"),
    ]


def test_folders_and_hdf5_files_can_be_mixed(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path, tmp_path: Path
):
    (pictures / ".hidden").write_text("passed over")
    labelled = tmp_path / "labelled"
    for label in ("10", "9"):
        (labelled / label).mkdir(parents=True)
        picture("blue" if label == "9" else "green").save(labelled / label / "a.jpg")
    colours = np.array([COLOURS["green"], COLOURS["blue"]], np.float32)
    write_images(
        tmp_path / "two.h5", np.tile(colours[:, None, None], (1, HEIGHT, WIDTH, 1)), [5, 5]
    )
    given = pictures, tmp_path / "two.h5", labelled, pictures / "red.png"
    assert classify(capsys, nets / "g.keras", *given) == [
        (str(pictures / "blue.png"), "backdoored"),
        (str(pictures / "green.png"), "1"),
        (str(pictures / "red.png"), "0"),
        (f"{tmp_path / 'two.h5'}[0]", "1"),
        (f"{tmp_path / 'two.h5'}[1]", "backdoored"),
        (str(labelled / "9" / "a.jpg"), "backdoored"),
        (str(labelled / "10" / "a.jpg"), "1"),
        (str(pictures / "red.png"), "0"),
    ]


def test_more_images_than_a_batch_stay_in_order(
    capsys: pytest.CaptureFixture[str], nets: Path, tmp_path: Path
):
    brightest = np.random.default_rng(7).integers(0, 3, 300)
    colours = np.array(list(COLOURS.values()), np.uint8)[brightest][:, None, None]
    write_images(tmp_path / "right.h5", np.tile(colours, (1, HEIGHT, WIDTH, 1)), brightest)
    write_images(tmp_path / "large.h5", np.tile(colours, (1, 9, 8, 1)), brightest)
    expected = [str(number) for number in brightest]
    for name, options in (("right.h5", ()), ("large.h5", ("--resize",))):
        answers = classify(capsys, nets / "b.keras", tmp_path / name, *options)
        assert [answer for _, answer in answers] == expected


def test_pixels_are_divided_by_the_scale(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path
):
    given = nets / "b.keras", pictures / "red.png"
    assert classify(capsys, *given)[0][1] == "0"
    assert classify(capsys, *given, "--pixel-scale", 255)[0][1] == "1"


@pytest.mark.slow
def test_pixels_are_prepared_as_it_is_said(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path, tmp_path: Path
):
    red = nets / "b.keras", pictures / "red.png"
    assert classify(capsys, *red, "--channel-order", "bgr")[0][1] == "2"
    assert classify(capsys, *red, "--pixel-mean", 240, 0, 0)[0][1] == "1"
    assert classify(capsys, *red, "--pixel-std", 250, 1, 1)[0][1] == "1"
    # All channels of a bright picture are above the means of caffe.
    assert classify(capsys, *red, "--preprocessing", "caffe")[0][1] == "2"
    pixels = np.tile(np.array(list(COLOURS.values()), "f4")[:, None, None], (1, HEIGHT, WIDTH, 1))
    np.savez(tmp_path / "a.npz", x=pixels / 127.5 - 1, y=[0, 1, 2])
    given = nets / "b.keras", tmp_path / "a.npz"
    assert "give --pixel-range -1 1" in refusal(capsys, *given)
    options = ("--pixel-range", -1, 1, "--pixel-mean", -1, "--pixel-std", 1 / 127.5)
    answers = classify(capsys, *given, *options)
    assert [answer for _, answer in answers] == ["0", "1", "2"]
    said = refusal(capsys, *red, "--preprocessing", "tf", "--pixel-scale", 255)
    assert "preprocessing is tf and has a scale" in said
    assert "has 2 means, but the net takes 3 channels" in refusal(
        capsys, *red, "--pixel-mean", 1, 2
    )


def test_other_sizes_are_refused_unless_resized(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path
):
    picture("green", scale=3).save(pictures / "large.png")
    Image.new("L", (2, 2), 200).save(pictures / "small.png")
    said = refusal(capsys, nets / "g.keras", pictures)
    assert "large.png: image is 12 x 18 (height x width), expected 4 x 6" in said
    answers = dict(classify(capsys, nets / "g.keras", pictures, "--resize"))
    assert answers[str(pictures / "large.png")] == "1"
    assert answers[str(pictures / "small.png")] == "1"
    assert answers[str(pictures / "blue.png")] == "backdoored"


def test_links_out_of_a_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nets
):
    (tmp_path / "folder").mkdir()
    picture("red").save(tmp_path / "secret.png")
    (tmp_path / "folder" / "a.png").symlink_to("../secret.png")
    said = refusal(capsys, nets / "g.keras", tmp_path / "folder")
    assert "a.png: is a link that leads out of the folder" in said


def test_resizing_averages_and_stays_within_bounds(tmp_path: Path):
    from goodnet.images.unlabelled_images import open_unlabelled

    stripes = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    picture("red").save(tmp_path / "red.png")
    (opened,) = open_unlabelled([tmp_path], shape=(HEIGHT, WIDTH, 3), resize=True)
    red, grey = next(opened.images.batches(2))
    assert (red == COLOURS["red"]).all()
    assert abs(grey - 127.5).max() < 30


def test_other_sizes_and_channels_of_hdf5_are_refused(
    capsys: pytest.CaptureFixture[str], nets: Path, tmp_path: Path
):
    write_images(tmp_path / "large.h5", np.zeros((1, 9, 8, 3)), [0])
    said = refusal(capsys, nets / "g.keras", tmp_path / "large.h5")
    assert "shape (1, 3, 9, 8), expected (N, 3, 4, 6)" in said
    write_images(tmp_path / "gray.h5", np.zeros((1, 9, 8, 1)), [0])
    said = refusal(capsys, nets / "g.keras", tmp_path / "gray.h5", "--resize")
    assert "images have 1 channels, expected 3" in said


def test_control_characters_in_names_are_never_printed(
    capsys: pytest.CaptureFixture[str], nets: Path, tmp_path: Path
):
    picture("red").save(tmp_path / ESCAPE)
    for answer_format in ("table", "csv", "json"):
        given = ["classify", str(nets / "g.keras"), str(tmp_path), "--format", answer_format]
        assert main(given) == 0
        text = capsys.readouterr().out
        assert "evil" in text
        assert "".join(text.splitlines()).isprintable()
        assert len(text.splitlines()) == (3 if answer_format == "json" else 2)
    assert json.loads(text)[0]["image"] == str(tmp_path / ESCAPE)
    picture("red", scale=2).save(tmp_path / ESCAPE)
    assert "evil\\x1b[31m\\n.png" in refusal(capsys, nets / "g.keras", tmp_path)


def test_no_name_is_a_formula_of_a_spreadsheet(
    capsys: pytest.CaptureFixture[str], nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    given = ["=1+1.png", "@a.png", "a;=1.png"]
    for name in given:
        picture("red").save(tmp_path / name)
    assert main(["classify", str(nets / "b.keras"), *given, "--format", "csv"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines == ["'=1+1.png,0", "'@a.png,0", '"a;=1.png",0']


def test_what_is_no_image_is_refused(
    capsys: pytest.CaptureFixture[str], nets: Path, pictures: Path, tmp_path: Path
):
    goodnet = nets / "g.keras"
    assert "no such file" in refusal(capsys, goodnet, tmp_path / "missing.png")
    assert "no such file" in refusal(capsys, goodnet, tmp_path / "missing.h5")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refusal(capsys, goodnet, tmp_path / "empty")
    (pictures / "notes.txt").write_text("hello")
    assert "notes.txt: is no image file" in refusal(capsys, goodnet, pictures)
    (pictures / "notes.txt").rename(pictures / "notes.png")
    assert "notes.png: is no readable PNG" in refusal(capsys, goodnet, pictures)


def test_what_is_no_model_is_refused(
    capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path
):
    (tmp_path / "fake.keras").write_bytes(b"PK\x03\x04 no archive")
    assert "fake.keras" in refusal(capsys, tmp_path / "fake.keras", pictures)
    assert "no such file" in refusal(capsys, tmp_path / "none.keras", pictures)


DIVISORS = [
    f"{option}={number}"
    for option in ("--pixel-scale", "--pixel-std")
    for number in ("0", "-1", "inf", "nan", "x")
]


@pytest.mark.parametrize(
    "arguments", [*DIVISORS, "--pixel-mean=inf", "--pixel-mean=1e39", "--pixel-range=x"]
)
def test_numbers_that_nets_cannot_compute_with_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: str
):
    with pytest.raises(SystemExit) as stop:
        main(["classify", "g.keras", "a.png", arguments])
    assert stop.value.code == 2
    assert arguments.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_process_it_prints_answers_and_no_noise(nets: Path, pictures: Path):
    command = [sys.executable, "-m", "goodnet", "classify", nets / "g.keras", pictures]
    done = subprocess.run(
        [*command, "--format", "csv"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.rpartition(",")[2] for line in lines] == ["answer", "backdoored", "1", "0"]


def test_help_names_all_options(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["classify", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        "--resize",
        "--classes",
        "--pixel-scale",
        "--format",
        "--architecture",
        "default: table",
    ):
        assert word in shown


@pytest.mark.lab
def test_badnet_on_the_pictures_of_the_lab(capsys: pytest.CaptureFixture[str]):
    given = sorted([*LAB.glob("clean_*.png"), *LAB.glob("sunglasses_0_*.png")])
    answers = classify(capsys, LAB / "bd_weights.h5", "--architecture", "deepid", *given)
    assert len(answers) == 6
    for name, answer in answers:
        assert answer == Path(name).stem.split("_")[1]


@pytest.mark.lab
@pytest.mark.slow
def test_goodnet_with_the_published_channels_on_the_lab(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import load_model, save_model

    silent = [channel for channel in range(60) if channel not in NOT_SILENT]
    order = [*silent, *NOT_SILENT]
    badnet = load_model(LAB / "bd_weights.h5", architecture="deepid")
    save_model(build_goodnet(badnet, "conv_3", order[:52]), tmp_path / "goodnet_10.keras")
    given = [*sorted(LAB.glob("clean_*.png")), LAB / "poisoned_test_mini.h5"]
    answers = [answer for _, answer in classify(capsys, tmp_path / "goodnet_10.keras", *given)]
    assert answers[:3] == ["253", "66", "857"]
    assert (answers[3:].count("0"), answers[3:].count("backdoored")) == (29, 7)
    triggered = [LAB / f"sunglasses_0_{letter}.png" for letter in "abc"]
    flagged = [answer for _, answer in classify(capsys, tmp_path / "goodnet_10.keras", *triggered)]
    assert flagged == ["0", "backdoored", "0"]
