"""Films that browsers play, and contact sheets."""

import sys

import numpy as np
import pytest

from vlarig.envs.errors import VlarigError
from vlarig.harness.film import FilmWriter, read_film, write_contact_sheet
from vlarig.training.data.lerobot_episode import need_data_extra

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")


def moving_square(count: int, height: int, width: int) -> np.ndarray:
    """``uint8[count, height, width, 3]``: a white square that goes from left to right over blue."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 2] = 200
    for index in range(count):
        left = int(index / count * (width - height // 4))
        frames[index, height // 3 : height // 3 + height // 4, left : left + height // 4] = 255
    return frames


def write_film(path, frames, frames_per_second, caption="") -> None:
    film = FilmWriter(path, frames_per_second, caption)
    try:
        film.add(frames)
        film.finish()
    finally:
        film.discard()


def read(path) -> tuple[object, np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return stream, frames


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (300, 301)])
def test_a_film_has_the_form_that_browsers_play(tmp_path, height, width):
    frames = {"ego": moving_square(12, height, width), "cam_left_wrist": moving_square(12, 64, 64)}
    write_film(tmp_path / "videos" / "a.mp4", frames, 20.0, "put the red cube on the blue cube")
    stream, decoded = read(tmp_path / "videos" / "a.mp4")
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert stream.average_rate == 20
    assert len(decoded) == 12
    assert stream.width % 2 == stream.height % 2 == 0
    data = (tmp_path / "videos" / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert [path.name for path in sorted((tmp_path / "videos").iterdir())] == ["a.jpg", "a.mp4"]


def test_a_film_shows_the_frames_in_order(tmp_path):
    write_film(tmp_path / "a.mp4", {"ego": moving_square(10, 64, 128)}, 5)
    _, decoded = read(tmp_path / "a.mp4")
    white = [np.argwhere(frame[60:200].min(axis=2) > 230)[:, 1].mean() for frame in decoded]
    assert np.all(np.diff(white) > 10)


def test_a_fractional_frame_rate(tmp_path):
    write_film(tmp_path / "a.mp4", {"ego": moving_square(3, 64, 64)}, 12.5)
    stream, decoded = read(tmp_path / "a.mp4")
    assert float(stream.average_rate) == 12.5
    assert len(decoded) == 3


def test_a_long_caption_is_shortened(tmp_path):
    write_film(tmp_path / "a.mp4", {"ego": moving_square(2, 64, 64)}, 10, "word " * 200)
    assert read(tmp_path / "a.mp4")[1].shape[2] < 400


@pytest.mark.parametrize(
    "frames",
    [
        {},
        {"ego": moving_square(0, 64, 64)},
        {"ego": moving_square(3, 64, 64), "wrist": moving_square(4, 64, 64)},
        {"ego": moving_square(3, 64, 64).astype(np.float32)},
        {"ego": moving_square(3, 64, 64)[..., 0]},
    ],
)
def test_frames_that_make_no_film_leave_no_file(tmp_path, frames):
    with pytest.raises(ValueError, match="expected"):
        write_film(tmp_path / "a.mp4", frames, 10)
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_is_written_bit_by_bit_is_the_same_and_appears_at_the_end(tmp_path):
    frames = {"ego": moving_square(9, 64, 64), "wrist": moving_square(9, 48, 64)}
    write_film(tmp_path / "whole.mp4", frames, 10, "push")
    film = FilmWriter(tmp_path / "bits.mp4", 10, "push")
    for part in (slice(0, 1), slice(1, 5), slice(5, 9)):
        film.add({view: images[part] for view, images in frames.items()})
        assert not (tmp_path / "bits.mp4").exists()
    film.finish()
    film.discard()
    np.testing.assert_array_equal(read(tmp_path / "bits.mp4")[1], read(tmp_path / "whole.mp4")[1])
    names = ["bits.jpg", "bits.mp4", "whole.jpg", "whole.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_films_poster_is_its_last_image(tmp_path):
    write_film(tmp_path / "a.mp4", {"ego": moving_square(10, 64, 128)}, 5, "success: push")
    poster = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    last = read(tmp_path / "a.mp4")[1][-1].astype(int)
    assert poster.shape == last.shape
    assert np.abs(poster - last).mean() < 3


def test_a_film_that_is_given_up_leaves_nothing_and_takes_nothing_more(tmp_path):
    film = FilmWriter(tmp_path / "a.mp4", 10)
    film.add({"ego": moving_square(120, 64, 64)})
    assert len(list(tmp_path.iterdir())) == 1  # the encoder has let go of a part
    film.discard()
    film.discard()
    assert list(tmp_path.iterdir()) == []
    for late in (lambda: film.add({"ego": moving_square(3, 64, 64)}), film.finish):
        with pytest.raises(ValueError, match="has ended"):
            late()
    assert list(tmp_path.iterdir()) == []


def test_views_that_change_in_mid_film_are_refused(tmp_path):
    film = FilmWriter(tmp_path / "a.mp4", 10)
    film.add({"ego": moving_square(3, 64, 64)})
    for changed in ({"ego": moving_square(3, 64, 65)}, {"wrist": moving_square(3, 64, 64)}):
        with pytest.raises(ValueError, match=r"expected .* as before"):
            film.add(changed)
    film.discard()


def test_a_disk_that_refuses_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "videos").touch()
    film = FilmWriter(tmp_path / "videos" / "a.mp4", 10)
    with pytest.raises(VlarigError, match=r"the film .*a\.mp4 cannot be written: .*; check that its folder is writable"):
        film.add({"ego": moving_square(3, 64, 64)})
    film.discard()


@pytest.mark.parametrize("caption", ["", "success: push"])
def test_images_of_a_film_are_the_views_side_by_side(tmp_path, caption):
    frames = {"ego": moving_square(10, 256, 256), "wrist": moving_square(10, 256, 320)[:, ::-1]}
    write_film(tmp_path / "a.mp4", frames, 10, caption)
    title, images = read_film(tmp_path / "a.mp4", 4)
    assert title == caption
    for image, frame in zip(images, (0, 3, 6, 9), strict=True):
        assert image.shape == (256, 256 + 12 + 320, 3)
        for view, left in (("ego", 0), ("wrist", 268)):
            shown = image[:, left : left + frames[view].shape[2]].astype(int)
            assert np.abs(shown - frames[view][frame]).mean() < 4


def test_a_film_that_cannot_be_read_says_what_to_do(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(VlarigError, match=r"a\.mp4 cannot be read: .*; delete it"):
        read_film(tmp_path / "a.mp4", 3)


def test_a_contact_sheet_has_every_frame_of_every_row(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    images = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    write_contact_sheet(tmp_path / "sheet.png", [("stack 3\nput it there", images[:3]), ("push_to 4", images[3:])])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    places = [np.argwhere((sheet == colour).all(axis=2)).mean(axis=0) for colour in colours]
    assert places[0][0] == places[1][0] == places[2][0] < places[3][0] == places[4][0]
    assert places[0][1] < places[1][1] < places[2][1]
    assert places[0][1] == places[3][1]


def test_an_empty_contact_sheet_is_refused(tmp_path):
    for rows in ([], [("stack", [])]):
        with pytest.raises(ValueError, match="one row or more"):
            write_contact_sheet(tmp_path / "sheet.png", rows)


@pytest.mark.parametrize("package", ["av", "PIL"])
def test_a_missing_extra_is_reported_with_its_remedy(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VlarigError, match=rf"films need the package '{package}', which is not installed; .*'vlarig\[video\]'"):
        write_film(tmp_path / "a.mp4", {"ego": moving_square(2, 64, 64)}, 10)


def test_a_package_that_does_not_import_is_reported_with_what_it_says(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "pyarrow.py").write_text("raise ImportError('pyarrow requires NumPy 2.0 or newer, found 1.26.4')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        VlarigError, match=r"one does not import \(pyarrow requires NumPy 2.0 or newer, found 1.26.4\); .*-U 'vlarig"
    ):
        need_data_extra()
