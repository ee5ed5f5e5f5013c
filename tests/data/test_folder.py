import numpy as np
import pytest
from PIL import Image

from sdejax.data.sources import load

RNG = np.random.default_rng(0)


def write(file, shape=(6, 8, 3)):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def test_classes_are_the_sub_folders_in_order(tmp_path):
    written = {}
    for name in ("cat/b.png", "cat/deep/a.PNG", "ant/z.png", "ant/.hidden.png", ".trash/x.png"):
        written[name] = write(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    dataset = load("folder", tmp_path, "all")
    assert dataset.class_names == ("ant", "cat")
    assert dataset.event_shape == (6, 8, 3)
    rows = dataset.gather(np.arange(3))
    np.testing.assert_array_equal(rows["label"], [0, 1, 1])
    for row, name in zip(rows["x"], ["ant/z.png", "cat/b.png", "cat/deep/a.PNG"], strict=True):
        np.testing.assert_array_equal(row, written[name])
    assert load("folder", tmp_path, "all", classes=False).labels is None


def test_flat_folder_has_no_labels_and_holds_some_out(tmp_path):
    for k in range(20):
        write(tmp_path / f"{k:02}.png")
    train, test = load("folder", tmp_path), load("folder", tmp_path, "test")
    assert (len(train), len(test), train.labels, train.num_classes) == (18, 2, None, 0)
    assert len(load("folder", tmp_path, "train", held_out=0.25)) == 15


def test_split_folders_share_the_class_numbers(tmp_path):
    for name in ("train/a/1.png", "train/c/2.png", "val/b/3.png", "val/c/4.png"):
        write(tmp_path / name)
    train, test = load("folder", tmp_path), load("folder", tmp_path, "test")
    assert train.class_names == test.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(train.gather(np.arange(2))["label"], [0, 2])
    np.testing.assert_array_equal(test.gather(np.arange(2))["label"], [1, 2])
    with pytest.raises(ValueError, match="split: got 'all'"):
        load("folder", tmp_path, "all")


def test_missing_split_folder_is_not_taken_for_a_class(tmp_path):
    write(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(FileNotFoundError, match=r"divided into \['train'\], expected one of"):
        load("folder", tmp_path, "test")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_the_asked_channels(tmp_path, mode, channels):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / f"a.{suffix}")
    dataset = load("folder", tmp_path, "all", channels=channels)
    np.testing.assert_array_equal(dataset[0]["x"], np.full((4, 4, channels), 255))


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_over_white(tmp_path, channels):
    pixels = np.zeros((1, 3, 4), np.uint8)  # black under alpha 0, 1/5 and 1
    pixels[0, :, 3] = [0, 51, 255]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = load("folder", tmp_path, "all", channels=channels)[0]["x"]
    np.testing.assert_array_equal(x[0, :, 0], [255, 204, 0])
    kept = load("folder", tmp_path, "all", channels=4)[0]["x"]
    np.testing.assert_array_equal(kept, pixels)


def test_size_takes_the_centred_square(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200  # exactly the centred square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    dataset = load("folder", tmp_path, "all", size=5)
    assert dataset.event_shape == (5, 5, 3)
    np.testing.assert_array_equal(dataset.gather(np.arange(2))["x"], 200)


def test_camera_orientation_is_obeyed(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # left half bright; orientation 6: rotate clockwise, so top half bright
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=exif)
    dataset = load("folder", tmp_path, "all")
    assert dataset.event_shape == (16, 8, 3)
    x = dataset[0]["x"]
    assert x[:8].min() > 250
    assert x[8:].max() < 5


def test_mixed_sizes_are_found_from_the_headers(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", (7, 8, 3))
    with pytest.raises(ValueError, match=r"b\.png: got .*\(7, 8\), expected \(6, 8\).*pass size="):
        load("folder", tmp_path)


def test_files_that_are_no_images_are_found_from_the_headers(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"GIF? no")
    with pytest.raises(ValueError, match=r"b\.png: not a readable image"):
        load("folder", tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damage_beyond_the_header_is_named_on_decoding(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    write(file, (64, 64, 3))
    file.write_bytes(file.read_bytes()[:-900])
    dataset = load("folder", tmp_path, "all")
    with pytest.raises(ValueError, match=rf"a\.{suffix}: cannot be decoded"):
        dataset[0]


def test_sixteen_bit_images_are_refused_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*pixel mode 'I;16', expected eight bits"):
        load("folder", tmp_path, "all")[0]


def test_empty_folder_images_beside_classes_and_options(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"has no images.*found \['a\.gif'\]"):
        load("folder", tmp_path)
    write(tmp_path / "a.png")
    write(tmp_path / "cat" / "b.png")
    with pytest.raises(ValueError, match=r"images beside class folders .*a\.png"):
        load("folder", tmp_path)
    assert len(load("folder", tmp_path, "all", classes=False)) == 2
    with pytest.raises(ValueError, match="channels: got 2, expected 1"):
        load("folder", tmp_path, channels=2)
    with pytest.raises(ValueError, match="size: got 0"):
        load("folder", tmp_path, size=0)
