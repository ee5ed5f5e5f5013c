"""Files hold the picture that was given; no global state of matplotlib is touched."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sdejax.viz import image_grid, plot_points, save_figure, save_image


@pytest.mark.parametrize("c", [1, 3, 4])
def test_round_trip_through_a_file(tmp_path, c):
    picture = np.random.default_rng(c).integers(0, 256, (6, 5, c), dtype=np.uint8)
    path = tmp_path / "new" / "folder" / "a.png"
    save_image(path, picture)
    np.testing.assert_array_equal(np.asarray(Image.open(path)).reshape(picture.shape), picture)


def test_floats_without_a_channel_axis_and_open_files():
    buffer = io.BytesIO()
    save_image(buffer, np.array([[0.0, 1.0], [0.5, 0.25]]))
    image = Image.open(buffer)
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), [[0, 255], [128, 64]])


def test_figures(tmp_path):
    figure = plot_points(np.random.default_rng(0).normal(size=(20, 2)))
    save_figure(figure, str(tmp_path / "deep" / "points.png"), dpi=50)
    pixels = np.asarray(Image.open(tmp_path / "deep" / "points.png").convert("L"))
    assert 150 < pixels.shape[0] < 250  # 4.2 inches, trimmed, at 50 dots
    assert pixels.std() > 10
    save_figure(figure, tmp_path / "points.pdf")
    assert (tmp_path / "points.pdf").read_bytes().startswith(b"%PDF")


def test_misuse(tmp_path):
    with pytest.raises(ValueError, match="picture must be"):
        save_image(tmp_path / "a.png", np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="floats in"):
        save_image(tmp_path / "a.png", np.full((4, 4), 7.0))
    assert not list(tmp_path.iterdir())
    save_image(tmp_path / "a.png", image_grid(np.zeros((1, 4, 4, 1))))


def test_pyplot_is_never_imported():
    code = "import sys, sdejax.viz; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
