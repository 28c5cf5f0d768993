"""Demos without a browser: what runs can show, every bad upload, options, files, and the command."""

from __future__ import annotations

import io
import json
import socket
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from runs import only, train

import iin
from iin.cli import demo as command
from iin.config import ConfigError
from iin.demo import files, runs, uploads
from iin.demo.contract import Choice, Clip, DemoError, Number, Shown
from iin.run import RunError
from iin.system import Picture

av = pytest.importorskip("av", reason="videos need the package av")

GREY = (1, 16, 16)
COLOR = (3, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a flow with the factors side and residual; beside it, that of its autoencoder."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("demo")
    tiny.write(place / "ae.yaml", tiny.autoencoder())
    path = tiny.write(place / "flow.yaml", tiny.flow({"config": "ae.yaml"}))
    assert train("-b", path, "--logs", place / "logs") == 0
    return only(place / "logs", "*_toy_flow").folder


@pytest.fixture(scope="module")
def exhibit(folder: Path) -> runs.Exhibit:
    (found,) = runs.open_runs([folder], allow=["tiny"])
    return found


def demo(exhibit: runs.Exhibit, name: str) -> Any:
    return runs.find(runs.gallery([exhibit]), name)


def show(exhibit: runs.Exhibit, name: str, **given: Any) -> Shown:
    chosen = demo(exhibit, name)
    return runs.make(chosen, runs.chosen(chosen, given))


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_is_opened_with_its_test_images(exhibit: runs.Exhibit, folder: Path) -> None:
    assert exhibit.name == "toy_flow" and len(exhibit) == 10 and exhibit.shape == (1, 8, 8)
    assert exhibit.labels == ("0", "1") * 5 and exhibit.image(3).shape == (1, 1, 8, 8)
    (again,) = runs.open_runs([folder / "config.yaml", folder], allow=["tiny"])
    assert torch.equal(again.images.image, exhibit.images.image)


def test_runs_of_one_name_are_told_apart_and_share_their_images(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.symlink_to(folder.parent)
    other = tmp_path / "other"
    other.mkdir()
    for child in folder.iterdir():
        (other / child.name).symlink_to(child)
    first, second = runs.open_runs([folder, copy / folder.name, other], allow=["tiny"])
    assert (first.name, second.name) == ("toy_flow", "toy_flow-2")
    assert first.data is second.data
    found = runs.gallery([first, second])
    assert [one.name for one in found] == ["editor", "editor-2", "latents", "latents-2", "data"]
    titles = [one.title for one in found]
    assert titles[:3] == ["Factor editor: toy_flow", "Factor editor: toy_flow-2", "Latents: toy_flow"]
    assert titles[-1] == "Data: SidePairs"
    assert "toy_flow and flow-2 never learnt" in found[-1].about


def test_images_are_spread_over_a_large_test_set() -> None:
    images, places = runs._some(tiny.Sides(count=1000), 0, "here")
    assert len(images.image) == runs.IMAGES and places[:3] == (0, 10, 20) and places[-1] == 990


def test_a_run_without_factors_shows_its_latents_and_its_data(folder: Path) -> None:
    (autoencoder,) = runs.open_runs([only(folder.parent, "*_toy_ae").folder], allow=["tiny"])
    assert [one.name for one in runs.gallery([autoencoder])] == ["latents", "data"]


def test_no_run_and_missing_images_are_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        runs.open_runs([tmp_path])
    for child in folder.iterdir():
        if child.name != "config.yaml":
            (tmp_path / child.name).symlink_to(child)
    text = (folder / "config.yaml").read_text()
    node = text[text.index("  test:") : text.index("system:")]
    gone = "  test:\n    target: iin.data.ImageFolder\n    params: {root: gone, size: 8, channels: 1}\n"
    (tmp_path / "config.yaml").write_text(text.replace(node, gone))
    with pytest.raises(ConfigError, match=r"data\.test: gone: no such folder"):
        runs.open_runs([tmp_path], allow=["tiny"])


def test_nothing_is_downloaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("went online")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    for child in folder.iterdir():
        if child.name != "config.yaml":
            (tmp_path / child.name).symlink_to(child)
    text = (folder / "config.yaml").read_text()
    node = text[text.index("  test:") : text.index("system:")]
    (tmp_path / "config.yaml").write_text(text.replace(node, "  test: {target: iin.data.CIFAR10, params: {}}\n"))
    with pytest.raises(ConfigError, match="not here, and a demo downloads nothing; fetch them first: iin-explore"):
        runs.open_runs([tmp_path], allow=["tiny"])


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["abc", "", "nan", "inf", "-1", "1.5", [1]])
def test_an_epsilon_that_is_none_is_refused(value: Any) -> None:
    epsilon = Number("epsilon", "Strength", low=0, high=1, default=0.02, whole=False, typed=True)
    with pytest.raises(DemoError, match="epsilon: expected a number from 0 to 1, found"):
        epsilon.read(value)
    assert epsilon.read("0.5") == 0.5 and epsilon.read(None) == 0.02


def test_a_number_may_be_left_open() -> None:
    epsilon = Number("epsilon", "Strength", whole=False, typed=True, unset="the least")
    assert epsilon.read(None) is None and epsilon.read("0.5") == 0.5 and runs._range(epsilon) == "0..1 [the least]"
    with pytest.raises(DemoError, match="epsilon: expected a number from 0 to 1"):
        epsilon.read("")


def test_whole_numbers_and_choices_are_checked() -> None:
    with pytest.raises(DemoError, match=r"a whole number from 0 to 3, found '1\.5'"):
        Number("n", "", low=0, high=3).read("1.5")
    assert Number("n", "", low=0, high=3).read("3") == 3
    layer = Choice("layer", "", among=("conv1", "softmax"), default="softmax")
    assert layer.read(None) == "softmax"
    with pytest.raises(DemoError, match="layer: expected one of conv1, softmax, found 'conv9'"):
        layer.read("conv9")


def test_unknown_options_and_demos_are_named(exhibit: runs.Exhibit) -> None:
    with pytest.raises(DemoError, match=r"editor has no option 'side2'; it has: first, second, upload, side, residual"):
        runs.chosen(demo(exhibit, "editor"), {"side2": 1})
    with pytest.raises(DemoError, match="no demo 'nope' of these runs; there are: editor, latents, data"):
        demo(exhibit, "nope")
    with pytest.raises(DemoError, match="no demo 'attack' of these runs; it needs a run with a conditional flow"):
        demo(exhibit, "attack")
    for name in runs.MODULES:
        with pytest.raises(DemoError, match=f"no demo '{name}' of these runs; it needs .*run.*; there are: none"):
            runs.find([], name)


def test_test_sets_of_one_kind_are_told_apart(exhibit: runs.Exhibit) -> None:
    other = replace(exhibit, name="elsewhere", data=tiny.SidePairs())
    titles = [one.title for one in runs.gallery([exhibit, other]) if one.name.startswith("data")]
    assert titles == ["Data: SidePairs: toy_flow", "Data: SidePairs: elsewhere"]


# --- the editor and the data -------------------------------------------------------------------------------------


def edited(shown: Shown) -> torch.Tensor:
    return shown.pictures["edit"].images[0, 2]


def test_sliders_lead_from_the_first_image_to_the_second(exhibit: runs.Exhibit) -> None:
    row = show(exhibit, "editor", first=2, second=5, side=0, residual=0).pictures["edit"].images[0]
    torch.testing.assert_close(row[2], row[1])
    row = show(exhibit, "editor", first=2, second=5, side=1, residual=1).pictures["edit"].images[0]
    torch.testing.assert_close(row[2], row[3])
    assert torch.equal(row[0], exhibit.image(2)[0]) and torch.equal(row[4], exhibit.image(5)[0])


def test_a_swap_is_that_of_the_run(exhibit: runs.Exhibit) -> None:
    shown = show(exhibit, "editor", first=2, second=5, side=1, residual=0)
    expected = exhibit.trained.swap(exhibit.image(2), exhibit.image(5), ["side"])[0]
    torch.testing.assert_close(edited(shown), expected)
    torch.testing.assert_close(shown.pictures["lines"].images[0, -1], expected)
    half = edited(show(exhibit, "editor", first=2, second=5, side=0.5, residual=0))
    torch.testing.assert_close(half, shown.pictures["lines"].images[0, 4])
    assert not torch.allclose(half, expected)


def test_samples_hang_on_the_seed_and_keep_the_other_factors(exhibit: runs.Exhibit) -> None:
    def samples(**given: Any) -> torch.Tensor:
        return show(exhibit, "editor", first=2, **given).pictures["samples"].images[0]

    before = torch.get_rng_state()
    assert torch.equal(samples(seed=3), samples(seed=3)) and not torch.equal(samples(seed=3), samples(seed=4))
    assert torch.equal(before, torch.get_rng_state())
    z = exhibit.system.encode(exhibit.image(2))
    editor = demo(exhibit, "editor")
    values = runs.chosen(editor, {"sample": "side", "samples": 4})
    drawn = exhibit.system.exchange(z.expand(4, -1), torch.zeros(4, 4), [0])
    assert torch.equal(drawn[:, 2:], z[:, 2:].expand(4, -1))
    assert editor.samples(z, values).shape == (1, 4, 1, 8, 8)
    assert len(samples(sample="everything", samples=5)) == 5


def test_an_upload_takes_the_place_of_the_first_image(exhibit: runs.Exhibit, tmp_path: Path) -> None:
    Image.new("L", (20, 20), 255).save(tmp_path / "white.png")
    shown = show(exhibit, "editor", upload=tmp_path / "white.png")
    assert float(shown.pictures["edit"].images[0, 0].min()) > 0.99 and "uploaded" in shown.lines[0]


def test_factors_may_be_called_like_options() -> None:
    class Named:
        names = ("first", "hair colour?", "residual")

    class Run:
        name, system = "toy", Named

    from iin.demo.editor import Editor

    assert Editor(Run()).keys == ["factor_first", "hair-colour-", "residual"]  # type: ignore[arg-type]


def test_the_data_page_shows_and_counts(exhibit: runs.Exhibit) -> None:
    shown = show(exhibit, "data", images=12)
    assert shown.pictures["images"].images.shape == (2, 12, 1, 8, 8)  # pairs, one above the other; two places are left
    assert "10 pairs of images" in shown.lines[0] and "Labels: 0 (5), 1 (5)." in shown.lines
    assert -1 <= shown.figures["values/lowest"] < shown.figures["values/highest"] <= 1


# --- uploads -----------------------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG file that says it is so large, with the pixels of no row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def ramp(width: int = 40, height: int = 20) -> Image.Image:
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def movie(path: Path, frames: int = 10, rate: int = 10, size: tuple[int, int] = (32, 24), codec: str = "mpeg4") -> Path:
    """A video that grows lighter."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            levels = np.full((size[1], size[0], 3), 250 * index // max(1, frames - 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_picture_is_prepared_as_the_data_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "ramp.png", ramp())
    image = uploads.picture(path, GREY)
    assert image.shape == (1, 1, 16, 16) and image.dtype == torch.float32
    assert -0.6 < float(image[..., 0].mean()) < float(image[..., -1].mean()) < 0.6  # the middle square of it
    assert uploads.picture(path, COLOR).shape == (1, 3, 16, 16)
    assert uploads.picture(path, (3, 8, 16)).shape == (1, 3, 8, 16)
    black, white = (
        float(uploads.picture(saved(tmp_path / "plain.png", Image.new("L", (9, 9), level)), GREY).mean())
        for level in (0, 255)
    )
    assert -1 <= black < -0.99 and 0.99 < white <= 1


def test_every_kind_of_picture_is_understood(tmp_path: Path) -> None:
    whole = uploads.picture(saved(tmp_path / "plain.png", ramp(20, 20)), GREY)
    deep = Image.fromarray((np.asarray(ramp(20, 20)).astype(np.uint16)) * 257)
    torch.testing.assert_close(uploads.picture(saved(tmp_path / "deep.png", deep), GREY), whole)
    glass = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert float(uploads.picture(saved(tmp_path / "glass.png", glass), GREY).min()) > 0.99  # laid on white
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    tiff = saved(tmp_path / "turned.tif", ramp(20, 20), exif=turned)
    torch.testing.assert_close(uploads.picture(tiff, GREY), whole.flip(-1))
    gif = saved(
        tmp_path / "a.gif", Image.new("L", (9, 9), 0), save_all=True, append_images=[Image.new("L", (9, 9), 255)]
    )
    assert float(uploads.picture(gif, GREY).max()) < -0.9  # the first picture counts


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    file = io.BytesIO()
    ramp(200, 200).save(file, format="PNG")
    jpeg = io.BytesIO()
    ramp(200, 200).save(jpeg, format="JPEG")
    return {
        "large.png": (b"\x89PNG\r\n\x1a\n" + bytes(50 << 20), r"large.png: 50 MB; expected at most 20 MB"),
        "wide.png": (png_of(8000, 8000), r"wide.png: 8,000 x 8,000 pixels; expected at most 50 million"),
        "bomb.png": (png_of(60000, 60000), r"bomb.png: .*pixels"),
        "text.png": (b"just some words\n" * 20, r"text.png: not a picture of a known format"),
        "empty.png": (b"", r"empty.png: empty file"),
        "page.jpg": (b"<!doctype html><html></html>", r"page.jpg: a web page"),
        "cut.png": (file.getvalue()[: len(file.getvalue()) // 2], r"cut.png: "),
        "cut.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], r"cut.jpg: truncated"),
        "pixels.png": (png_of(40, 40), r"pixels.png: "),
    }


@pytest.mark.parametrize("name", bad_pictures())
def test_a_bad_picture_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, message = bad_pictures()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DemoError, match=message) as error:
        uploads.picture(tmp_path / name, GREY)
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wide.png").write_bytes(png_of(8000, 8000))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DemoError, match="8,000 x 8,000"):
        uploads.picture(tmp_path / "wide.png", GREY)


def test_devices_and_folders_are_no_pictures(tmp_path: Path) -> None:
    for path in (Path("/dev/zero"), tmp_path):  # the first would be read for ever
        with pytest.raises(DemoError, match=f"{path}: not a file"):
            uploads.picture(path, GREY)
    with pytest.raises(DemoError, match="/dev/zero: not a file"):
        uploads.video("/dev/zero", GREY)


def test_a_file_that_is_not_there_and_channels_that_are_odd(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"gone.png: cannot be read \(No such file"):
        uploads.picture(tmp_path / "gone.png", GREY)
    with pytest.raises(DemoError, match="the run's images have 4 channels"):
        uploads.picture(saved(tmp_path / "ramp.png", ramp()), (4, 8, 8))


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("mkv", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx")]
)
def test_a_video_is_read(suffix: str, codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"av is built without {codec}")
    clip, said = uploads.video(movie(tmp_path / f"film.{suffix}", codec=codec), COLOR)
    assert clip.frames.shape == (10, 3, 16, 16) and clip.rate == pytest.approx(10, abs=0.1) and said == ""
    levels = clip.frames.mean((1, 2, 3))
    assert bool((levels.diff() > 0.05).all()) and float(levels[0]) < -0.9 and float(levels[-1]) > 0.8


def test_of_a_long_video_the_first_frames_are_read(tmp_path: Path) -> None:
    clip, said = uploads.video(movie(tmp_path / "film.mp4", frames=60), GREY, limit=20)
    assert len(clip.frames) == 20
    assert said == "The first 20 of about 60 frames (0:06 minutes in all) are used."


def test_ten_hours_take_no_longer_than_the_frames_that_are_used(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        stream.codec_context.gop_size = 1
        for second in range(0, 36_001, 1200):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), second % 256, np.uint8), format="rgb24")
            frame.pts = second
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip, said = uploads.video(path, GREY, limit=8)
    assert len(clip.frames) == 8 and "10:00:" in said


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        levels = np.zeros((32, 32, 3), np.uint8)
        levels[:16] = 255  # bright above
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # clockwise, as players show it
    place = content.index(plain, content.index(b"tkhd"))
    path.write_bytes(content[:place] + quarter + content[place + len(plain) :])
    with av.open(str(path)) as container:
        if not getattr(next(container.decode(video=0)), "rotation", 0):
            pytest.skip("this version of av does not tell")
    frame = uploads.video(path, GREY)[0].frames[0, 0]
    assert float(frame[:, 8:].mean()) > 0.8 and float(frame[:, :8].mean()) < -0.8  # bright on the right


def bad_videos(folder: Path) -> dict[str, tuple[Callable[[], Any], str]]:
    def sound() -> None:
        with wave.open(str(folder / "sound.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(16000))
        with av.open(str(folder / "sound.wav")) as source, av.open(str(folder / "sound.mkv"), "w") as container:
            stream: Any = container.add_stream("pcm_s16le", rate=8000)
            for frame in source.decode(audio=0):
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    def frameless() -> None:
        content = movie(folder / "whole.avi").read_bytes()
        head, tail = content.index(b"movi") + 4, content.index(b"idx1")
        (folder / "none.avi").write_bytes(content[:head] + content[tail:])

    def playlist() -> None:
        movie(folder / "other.ts", codec="mpeg2video", rate=25)
        (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\n{folder / 'other.ts'}\n#EXT-X-ENDLIST\n")

    def concat() -> None:
        movie(folder / "other.mp4")
        (folder / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{folder / 'other.mp4'}'\n")

    def archive(name: str, child: str, content: bytes) -> None:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(child, content)

    return {
        "text.mp4": (lambda: (folder / "text.mp4").write_text("no film\n" * 99), "text.mp4: no video that can be read"),
        "empty.mp4": (lambda: (folder / "empty.mp4").write_bytes(b""), "empty.mp4: no video that can be read"),
        "large.mp4": (
            lambda: (folder / "large.mp4").write_bytes(bytes(50 << 20)),
            "large.mp4: 50 MB; expected at most",
        ),
        "sound.mkv": (sound, "sound.mkv: has no pictures in it"),
        "none.avi": (frameless, r"none.avi: (a video without frames|no video)"),
        "list.mp4": (playlist, "list.mp4: no video that can be read"),
        "concat.mp4": (concat, "concat.mp4: no video that can be read"),
        "words.zip": (lambda: archive("words.zip", "a.txt", b"words"), "words.zip: holds no pictures"),
        "bad.zip": (lambda: archive("bad.zip", "a.png", b"words"), "a.png: not a picture of a known format"),
        "bomb.zip": (lambda: archive("bomb.zip", "a.png", bytes(21 << 20)), "a.png: 21 MB in bomb.zip"),
        "gone": (lambda: (folder / "gone").mkdir(), "gone: holds no pictures"),
    }


@pytest.mark.parametrize("name", bad_videos(Path()))
def test_a_bad_video_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = bad_videos(tmp_path)[name]
    make()
    with pytest.raises(DemoError, match=message) as error:
        uploads.video(tmp_path / name, GREY)
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_video_that_is_cut_off_shows_what_is_left(tmp_path: Path) -> None:
    content = movie(tmp_path / "film.mkv", frames=40, size=(64, 64)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    clip, _ = uploads.video(tmp_path / "cut.mkv", GREY)
    assert 1 <= len(clip.frames) < 40


def test_pictures_in_a_row_are_a_video(tmp_path: Path) -> None:
    place = tmp_path / "row"
    place.mkdir()
    for number in (10, 9, 2):
        saved(place / f"{number}.png", Image.new("L", (9, 9), 20 * number))
    (place / "notes.txt").write_text("no picture")
    clip, said = uploads.video(place, GREY)
    assert len(clip.frames) == 3 and bool((clip.frames.mean((1, 2, 3)).diff() > 0).all()) and not said
    with zipfile.ZipFile(tmp_path / "row.zip", "w") as file:
        for path in place.iterdir():
            file.write(path, f"inside/{path.name}")
    assert torch.equal(uploads.video(tmp_path / "row.zip", GREY)[0].frames, clip.frames)
    _, said = uploads.video(place, GREY, limit=2)
    assert said == "The first 2 of 3 pictures are used."
    assert len(uploads.video(place / "9.png", GREY)[0].frames) == 1
    images = [Image.new("L", (9, 9), level) for level in (0, 100, 200)]
    gif = saved(tmp_path / "a.gif", images[0], save_all=True, append_images=images[1:], duration=100)
    moving, _ = uploads.video(gif, COLOR)
    assert moving.frames.shape == (3, 3, 16, 16) and moving.rate == pytest.approx(10)


# --- files -------------------------------------------------------------------------------------------------------


def test_a_clip_becomes_a_film_that_can_be_read_again(tmp_path: Path) -> None:
    frames = torch.linspace(-1, 1, 12)[:, None, None, None].expand(12, 1, 15, 15)
    content = files.film(Clip(frames, 12.0))
    assert content[4:8] == b"ftyp"
    (tmp_path / "film.mp4").write_bytes(content)
    with av.open(io.BytesIO(content)) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height) == (256, 256) and float(stream.average_rate) == 12
    again, _ = uploads.video(tmp_path / "film.mp4", (1, 15, 15))
    assert again.frames.shape == (12, 1, 15, 15)
    torch.testing.assert_close(again.frames, frames, atol=0.06, rtol=0)


def test_all_that_is_shown_is_written(exhibit: runs.Exhibit, tmp_path: Path) -> None:
    shown = show(exhibit, "editor")
    shown.clips["turn"] = Clip(shown.pictures["samples"].images[0], 5)
    shown.figures["odd"] = float("nan")
    editor = demo(exhibit, "editor")
    written = files.save(tmp_path / "new" / "folder", editor, runs.chosen(editor, {}), shown)
    assert sorted(path.name for path in written) == [
        f"editor{rest}" for rest in (".json", "_edit.png", "_lines.png", "_samples.png", "_turn.mp4")
    ]
    content = json.loads((tmp_path / "new" / "folder" / "editor.json").read_text())
    assert content["values"]["side"] == 1 and content["figures"]["odd"] is None and content["lines"] == shown.lines
    assert content["pictures"].keys() == {"editor_edit.png", "editor_lines.png", "editor_samples.png"}
    lines = content["pictures"]["editor_lines.png"]
    assert lines["title"] == "One factor at a time" and lines["rows"] == ["side", "residual"]
    assert lines["caption"] == shown.pictures["lines"].caption
    assert Image.open(written[0]).size == Image.open(io.BytesIO(files.png(shown.pictures["edit"]))).size


# --- the command -------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> int:
    return command.main([*map(str, arguments), "--allow", "tiny"])


def test_the_command_writes_what_the_page_would_show(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-p", folder, "side=0.25", "--demo", "editor", "--save", tmp_path / "out", "first=3") == 0
    assert "Saved:" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "editor.json").read_text())
    assert content["values"] == {
        **{"first": 3, "second": 1, "upload": None, "side": 0.25, "residual": 0.0},
        **{"sample": "residual", "samples": 9, "seed": 0},
    }
    assert (tmp_path / "out" / "editor_lines.png").is_file()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run("-p", folder, "--demo", "data", "--save", tmp_path / "out") == 0  # another one takes nothing away
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (tmp_path / "out" / "data_images.png").is_file()


def test_the_command_lists_demos_and_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-p", folder, "--list") == 0
    out = capsys.readouterr().out
    assert out.startswith("editor: Factor editor\n") and "\ndata: Data: SidePairs\n" in out
    assert "  side=0..1 [1]" in out and "  sample=side|residual|everything [residual]" in out


def test_files_need_no_streamlit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "streamlit", None)
    assert run("-p", folder, "--demo", "data", "--save", tmp_path / "out") == 0


def test_mistakes_end_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def complaint(*arguments: str | Path) -> str:
        assert run(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    out = tmp_path / "out"
    assert "no_run: not a run folder" in complaint("-p", tmp_path / "no_run")
    assert "no demo 'attack'" in complaint("-p", folder, "--demo", "attack", "--save", out)
    assert "found 'much'" in complaint("-p", folder, "--demo", "editor", "--save", out, "side=much")
    (tmp_path / "words.png").write_text("words")
    line = complaint("-p", folder, "--demo", "editor", "--save", out, f"upload={tmp_path / 'words.png'}")
    assert line.startswith("error: words.png: not a picture")
    assert not out.exists()
    out.write_text("")
    assert "is a file; name a folder" in complaint("-p", folder, "--demo", "editor", "--save", out)
    assert "--port: expected a number from 1 to 65535, found 0" in complaint("-p", folder, "--port", "0")
    assert "--host: nowhere.invalid is no address" in complaint("-p", folder, "--host", "nowhere.invalid")
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of localhost cannot be used (Address already in use); choose another" in complaint(
            "-p", folder, "--port", str(port)
        )


def test_a_missing_package_is_named_before_anything_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert run("-p", tmp_path) == 2
    assert "pip install 'iin[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--demo", "editor"], ["--save", "out"], ["first=3"], ["--demo", "editor", "--save", "out", "--", "word"]],
)
def test_arguments_that_do_not_go_together(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run("-p", folder, *arguments)
    assert end.value.code == 2 and "usage: iin-demo" in capsys.readouterr().err


# --- what the page is made of ------------------------------------------------------------------------------------


def test_what_was_shown_is_kept_while_there_is_room(exhibit: runs.Exhibit, monkeypatch: pytest.MonkeyPatch) -> None:
    page = pytest.importorskip("iin.demo.page", reason="the page needs the package streamlit")
    editor = demo(exhibit, "editor")
    monkeypatch.setattr(page, "_shelf", page.Shelf(1 << 30))
    first = page.render(editor, {"first": 1})
    assert page.render(editor, {"first": 1}) is first and page.render(editor, {"first": 2}) is not first
    assert [figure.stem for figure in first.figures] == ["editor_edit", "editor_lines", "editor_samples"]
    monkeypatch.setattr(page, "_shelf", shelf := page.Shelf(first.size + 1))
    page.render(editor, {"first": 1}), page.render(editor, {"first": 2})
    assert len(shelf._held) == 1


def test_what_a_browser_sends_is_shown_and_not_left_behind(
    exhibit: runs.Exhibit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = pytest.importorskip("iin.demo.page", reason="the page needs the package streamlit")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = io.BytesIO()
    ramp().save(file, format="PNG")
    editor = demo(exhibit, "editor")
    rendered = page.render(editor, {"upload": [("../../über: all.png", file.getvalue())]})
    assert "uploaded" in rendered.lines[0] and json.loads(rendered.notes)["values"]["upload"] == "../../über: all.png"
    with pytest.raises(DemoError, match=r"text\.png: not a picture"):
        page.render(editor, {"upload": [("text.png", b"words")]})
    with pytest.raises(DemoError, match=r"a\.mp4, b\.png: expected one video alone, or several pictures"):
        page._written([("a.mp4", b""), ("b.png", b"")], tmp_path / "several")
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_demos_have_titles_and_captions(exhibit: runs.Exhibit) -> None:
    for one in runs.gallery([exhibit]):
        for picture in show(exhibit, one.name).pictures.values():
            assert isinstance(picture, Picture) and picture.title and picture.caption
            assert len(picture.labels) in (0, len(picture.images))
            assert len(picture.heads) in (0, picture.images.shape[1])


def test_known_factors_are_labels_in_words() -> None:
    data = iin.data.Sprites(split="test")
    words = runs._label(data, data[[3]].label[0])
    assert words.split(", ")[0].startswith("shape ") and words.count(",") == len(data.factor_sizes) - 1


def test_the_gallery_shows_a_demo_by_its_cover(exhibit: runs.Exhibit) -> None:
    page = pytest.importorskip("iin.demo.page", reason="the page needs the package streamlit")
    editor = demo(exhibit, "editor")
    shown = show(exhibit, "editor")
    assert page._files(editor, {}, shown).cover == files.png(shown.pictures["edit"])
    shown.cover = "lines"
    assert page._files(editor, {}, shown).cover == files.png(Picture(shown.pictures["lines"].images))
