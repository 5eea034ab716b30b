"""Every format and mode becomes 8-bit RGB or grey; every damaged file one clear line."""

import gzip
import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoobot.data import images
from zoobot.data.images import ImageError, read_image, to_8bit
from zoobot.script import set_up_process

WIDTH, HEIGHT = 40, 30


def smooth_rgb(width=WIDTH, height=HEIGHT):
    y, x = np.mgrid[:height, :width]
    bands = [x / width, y / height, (x + y) / (width + height)]
    return (np.stack(bands, axis=-1) * 200 + 20).astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.JPG", "a.tif", "a.TIFF", "a.webp"])
def test_formats_and_suffix_cases_read_alike(tmp_path, name):
    path = saved(tmp_path / name, Image.fromarray(smooth_rgb()))
    for source in (path, str(path), path.read_bytes()):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
        assert np.abs(pixels(image) - smooth_rgb()).mean() < 6  # lossy chroma


def test_a_torchvision_without_a_decoder_is_no_error(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg", Image.fromarray(smooth_rgb()))
    decoded = images.read_pixels(str(path)).astype(int)
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    assert np.abs(images.read_pixels(str(path)) - decoded).max() <= 2


def test_reading_a_jpeg_shows_no_warning_and_imports_no_astropy(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(smooth_rgb()))
    code = f"""
import sys
from zoobot.data.images import read_pixels
read_pixels({str(path)!r})
sys.exit("astropy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_content_counts_not_the_suffix(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(smooth_rgb()).save(path, format="PNG")
    np.testing.assert_array_equal(pixels(read_image(path)), smooth_rgb())


def test_grey_gives_three_equal_channels_and_rgb_gives_luma(tmp_path):
    grey = saved(tmp_path / "grey.png", Image.fromarray(smooth_rgb()[..., 0]))
    rgb = pixels(read_image(grey))
    assert (rgb == rgb[..., :1]).all()
    np.testing.assert_array_equal(rgb[..., 0], smooth_rgb()[..., 0])
    colour = saved(tmp_path / "rgb.png", Image.fromarray(smooth_rgb()))
    luma = read_image(colour, channels=1)
    assert luma.mode == "L"
    expected = smooth_rgb() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels(luma) - expected).max() <= 1


def test_jpeg_luma_is_that_of_its_colours(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(smooth_rgb()), quality=95)
    luma = pixels(read_image(path, channels=1))
    assert np.abs(luma - pixels(read_image(path).convert("L"))).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_keep_their_brightness(tmp_path, mode, channels):
    source = Image.fromarray(smooth_rgb())
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    options = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}  # Pillow 12 reads no other
    image = read_image(saved(path, source.convert(mode), **options), channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert pixels(image).mean() == pytest.approx(smooth_rgb().mean(), abs=6)


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(smooth_rgb()).convert("CMYK"), quality=95)
    for min_side_px in (None, 10):
        assert pixels(read_image(path, min_side_px=min_side_px)).mean() == pytest.approx(
            smooth_rgb().mean(), abs=3
        )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_black(tmp_path, mode):
    white = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    white.paste((255, 255, 255, 0), (0, 0, 4, 8))
    image = pixels(read_image(saved(tmp_path / "a.png", white.convert(mode))))
    assert (image[:, :4] == 0).all()
    assert (image[:, 4:] == 255).all()


def test_half_transparent_pixels_are_half_as_bright(tmp_path):
    half = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    image = pixels(read_image(saved(tmp_path / "a.png", half)))
    assert np.abs(image - [100, 50, 25]).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_divided_by_257(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    image = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(ramp)), channels=1)
    np.testing.assert_array_equal(pixels(image), np.arange(256).reshape(16, 16))


def test_big_endian_16_bit_tif(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(">u2").reshape(16, 16)
    image = Image.frombytes("I;16B", (16, 16), ramp.tobytes())
    path = saved(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(pixels(read_image(path, 1)), np.arange(256).reshape(16, 16))


def test_32_bit_integers_within_16_bits_count_as_16_bits(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.int32).reshape(16, 16)
    path = saved(tmp_path / "a.tif", Image.fromarray(ramp))
    np.testing.assert_array_equal(pixels(read_image(path, 1)), np.arange(256).reshape(16, 16))


def test_wider_32_bit_integers_are_scaled_as_floats(tmp_path):
    ramp = np.linspace(-1e6, 1e6, 256).astype(np.int32).reshape(16, 16)
    image = pixels(read_image(saved(tmp_path / "a.tif", Image.fromarray(ramp)), 1, "linear"))
    assert (image.min(), image.max()) == (0, 255)
    assert np.abs(image.ravel() - np.arange(256)).max() <= 2


@pytest.mark.parametrize("scaling", ["asinh", "linear"])
def test_float_tif_is_scaled_as_fits(tmp_path, scaling):
    values = np.random.default_rng(0).gamma(1.0, 50.0, (20, 20)).astype(np.float32)
    path = saved(tmp_path / "a.tif", Image.fromarray(values))
    image = pixels(read_image(path, 1, scaling))
    high = np.percentile(values, 99.7)
    unit = (np.clip(values, values.min(), high) - values.min()) / (high - values.min())
    unit = np.arcsinh(unit) / np.arcsinh(1) if scaling == "asinh" else unit
    assert np.abs(image - 255 * unit).max() <= 0.51


def test_min_side_px_shrinks_a_jpeg_but_never_below(tmp_path):
    big = Image.fromarray(smooth_rgb(424, 424))
    path = saved(tmp_path / "a.jpg", big, quality=95)
    sides = {px: read_image(path, min_side_px=px).width for px in (1, 53, 54, 212, 213, 424, 900)}
    assert sides == {1: 53, 53: 53, 54: 106, 212: 212, 213: 424, 424: 424, 900: 424}
    for channels in (1, 3):
        small = read_image(path, channels, min_side_px=212)
        full = read_image(path, channels).reduce(2)
        assert np.abs(pixels(small) - pixels(full)).mean() < 1


def test_a_shrunk_jpeg_averages_fine_detail_out(tmp_path):
    y, x = np.mgrid[:128, :128]
    board = ((x + y) % 2 * 255).astype(np.uint8)
    path = saved(tmp_path / "a.jpg", Image.fromarray(board), quality=100)
    small = pixels(read_image(path, 1, min_side_px=32))
    assert small.shape == (32, 32)
    assert np.abs(small - 127.5).max() < 4


def test_hugging_face_struct(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(smooth_rgb()))
    for struct in (
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": path.read_bytes(), "path": "not/a/file.png"},
        {"bytes": None, "path": str(path)},
    ):
        np.testing.assert_array_equal(pixels(read_image(struct)), smooth_rgb())
    with pytest.raises(ImageError, match="^image: no path and no bytes"):
        read_image({"bytes": None, "path": None})
    with pytest.raises(ImageError, match="^survey/7.png: empty file"):
        read_image({"bytes": b"", "path": "survey/7.png"})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["RGB", "L", "RGBA", "P", "1"]))
def test_any_size_down_to_one_pixel(width, height, mode):
    buffer = io.BytesIO()
    Image.fromarray(smooth_rgb(width, height)).convert(mode).save(buffer, format="PNG")
    image = read_image(buffer.getvalue())
    assert (image.mode, image.size) == ("RGB", (width, height))


def one_line_error(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_a_truncated_file_is_named_and_a_script_prints_nothing(tmp_path, name, recwarn, capfd):
    set_up_process()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if name == "a.tif" else {}
    path = saved(tmp_path / name, Image.fromarray(noise), **options)
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.02):
        path.write_bytes(whole[: int(part * len(whole))])
        assert one_line_error(path).startswith(f"{path}: ")
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_gives_an_image_or_an_image_error(data):
    form = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP"]))
    buffer = io.BytesIO()
    Image.fromarray(smooth_rgb()).save(buffer, format=form)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        mode = read_image(bytes(damaged)).mode
    except ImageError:
        mode = "RGB"
    assert mode == "RGB"


def test_missing_empty_and_foreign_files_say_so(tmp_path):
    assert one_line_error(tmp_path / "no.png") == f"{tmp_path / 'no.png'}: no such file"
    assert one_line_error(tmp_path).endswith(": is a folder")
    (tmp_path / "empty.jpg").touch()
    assert one_line_error(tmp_path / "empty.jpg").endswith("empty.jpg: empty file")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    assert "not a png, jpg, tif, webp or FITS image" in one_line_error(tmp_path / "text.png")
    assert one_line_error(None).startswith("image: no path and no bytes")
    assert one_line_error(b"", name="galaxy 12") == "galaxy 12: empty file"


def png_header(width, height):
    def chunk(kind, body):
        check = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + rows


@pytest.mark.parametrize("side", [10_001, 20_000, 1_000_000])
def test_a_decompression_bomb_is_refused_before_decoding(side, recwarn):
    set_up_process()
    assert "over the limit of 100,000,000 pixels" in one_line_error(png_header(side, side))
    assert not recwarn.list


def test_zero_size_is_an_image_error():
    one_line_error(png_header(0, 5))


def test_other_channels_and_scalings_are_a_users_mistake(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(smooth_rgb()))
    for channels in (0, 2, 4, None):
        with pytest.raises(ValueError, match=f"channels={channels}"):
            read_image(path, channels)
    with pytest.raises(ValueError, match="fits_scaling='log': use one of asinh, linear, none"):
        read_image(path, fits_scaling="log")


def test_reading_leaves_pillows_settings_alone(tmp_path):
    read_image(saved(tmp_path / "a.png", Image.fromarray(smooth_rgb())))
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# FITS


def fits_file(path, *arrays):
    fits = pytest.importorskip("astropy.io.fits")
    hdus = [fits.PrimaryHDU(arrays[0])] + [fits.ImageHDU(array) for array in arrays[1:]]
    fits.HDUList(hdus).writeto(path)
    return path


def sky():
    values = np.random.default_rng(0).normal(5, 1, (HEIGHT, WIDTH))
    values[15, 20] = 5000  # a star
    return values.astype(np.float32)


@pytest.mark.parametrize("name", ["a.fits", "a.fit", "a.FITS", "a.fits.gz", "a.FIT.GZ"])
def test_fits_is_clipped_rescaled_and_arcsinhed(tmp_path, name):
    plain = fits_file(tmp_path / "plain.fits", sky()).read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain) if name.lower().endswith("gz") else plain)
    high = np.percentile(sky(), 99.7)
    unit = (np.clip(sky(), None, high) - sky().min()) / (high - sky().min())
    expected = 255 * np.arcsinh(unit) / np.arcsinh(1)
    for source in (path, path.read_bytes()):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
        assert np.abs(pixels(image)[..., 0] - expected).max() <= 0.51
    linear = pixels(read_image(path, 1, fits_scaling="linear"))
    assert np.abs(linear - 255 * unit).max() <= 0.51


def test_a_fits_cube_is_rgb_if_it_has_8_bits_and_else_a_question(tmp_path):
    bytes_ = np.stack([np.full((HEIGHT, WIDTH), 60 * i, np.uint8) for i in range(3)])
    for name, cube in (("first", bytes_), ("last", np.moveaxis(bytes_, 0, -1))):
        image = pixels(read_image(fits_file(tmp_path / f"{name}.fits", cube), 3, "none"))
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image[5, 5].tolist() == [0, 60, 120]
    floats = fits_file(tmp_path / "grz.fits", np.stack([sky()] * 3))
    assert "a cube, 0 PRIMARY (3, 30, 40): say its bands: --bands" in one_line_error(floats)
    one_plane = fits_file(tmp_path / "one.fits", sky()[None, None])
    assert read_image(one_plane).size == (WIDTH, HEIGHT)


def test_a_fits_file_of_several_images_is_a_question(tmp_path):
    empty_first = fits_file(tmp_path / "a.fits", None, sky(), np.zeros(5))
    assert read_image(empty_first).size == (WIDTH, HEIGHT)
    two = fits_file(tmp_path / "b.fits", None, sky(), sky()[:5])
    asked = one_line_error(two)
    assert "2 images in this file; it holds 1 (30, 40), 2 (5, 40)" in asked
    assert "--bands NAME=NUMBER" in asked


def test_fits_nan_is_the_low_end(tmp_path):
    holed = sky()
    holed[:5] = np.nan
    holed[6, 6], holed[7, 7] = np.inf, -np.inf
    image = pixels(read_image(fits_file(tmp_path / "a.fits", holed), 1))
    assert (image[:5] == 0).all()
    assert image[6, 6] == 255
    assert image[7, 7] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_fits_of_any_number_type(tmp_path, dtype):
    ramp = np.arange(100).reshape(10, 10).astype(dtype)
    image = pixels(read_image(fits_file(tmp_path / "a.fits", ramp), 1, "linear"))
    assert np.abs(image - ramp.astype(float) * 255 / 99).max() <= 2


def test_fits_unscaled_takes_unit_or_byte_ranges_only(tmp_path):
    unit = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    for name, values in (("unit", unit), ("byte", unit * 255)):
        image = pixels(read_image(fits_file(tmp_path / f"{name}.fits", values), 1, "none"))
        assert np.abs(image - unit * 255).max() <= 0.51
    path = fits_file(tmp_path / "wide.fits", unit * 1000)
    assert "not within 0-255: use fits scaling" in one_line_error(path, fits_scaling="none")


def test_constant_fits_is_black(tmp_path):
    assert pixels(read_image(fits_file(tmp_path / "a.fits", np.full((5, 5), 7.0)))).max() == 0


def test_bad_fits_is_named(tmp_path, recwarn, capfd):
    set_up_process()
    for name, arrays, reason in (
        ("nan", [np.full((5, 5), np.nan)], "no finite pixels"),
        ("table", [None], "no image in this file"),
        ("cube", [np.zeros((7, 5, 5))], "a cube, 0 PRIMARY (7, 5, 5): say its bands"),
        ("line", [np.zeros(5)], "no image in this file"),
    ):
        path = fits_file(tmp_path / f"{name}.fits", *arrays)
        message = one_line_error(path)
        assert message.startswith(f"{path}: ")
        assert reason in message
    whole = fits_file(tmp_path / "cut.fits", np.zeros((100, 100))).read_bytes()
    for size in (0, 100, 2880, 20_000):
        (tmp_path / "cut.fits").write_bytes(whole[:size])
        one_line_error(tmp_path / "cut.fits")
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_huge_fits_is_refused_before_its_pixels_are_read(tmp_path, monkeypatch):
    path = fits_file(tmp_path / "a.fits", sky())
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert "over the limit of 1,000 pixels" in one_line_error(path)


def test_fits_without_astropy_says_what_to_install(tmp_path, monkeypatch):
    path = fits_file(tmp_path / "a.fits", sky())
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    assert one_line_error(path).endswith("pip install 'zoobot-torch[astro]'")


def test_to_8bit_leaves_an_image_of_the_wanted_mode_untouched():
    image = Image.fromarray(smooth_rgb())
    assert to_8bit(image, 3) is image


@pytest.mark.parametrize(
    ("card", "value"),
    [("NAXIS1", -(2**31)), ("NAXIS", 2**53), ("NAXIS2", 10**9), ("BITPIX", "nan")],
)
def test_a_fits_header_that_claims_what_is_not_there_is_refused(tmp_path, card, value):
    content = fits_file(tmp_path / "a.fits", sky()).read_bytes()
    start = content.index(f"{card:<8}= ".encode())
    content = content[:start] + f"{card:<8}= {value:>20}".ljust(80).encode() + content[start + 80 :]
    for source in (content, gzip.compress(content)):
        assert "its header" in one_line_error(source)


def test_an_unzipped_fits_file_is_bounded(tmp_path, monkeypatch):
    content = gzip.compress(fits_file(tmp_path / "a.fits", sky()).read_bytes())
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 5000)
    assert "over the limit of 5,000 bytes" in one_line_error(content)
