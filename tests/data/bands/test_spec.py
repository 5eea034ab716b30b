"""What a model's images are made of is said once, checked, and saved as plain types."""

import json
import re
from pathlib import Path

import pytest

from zoobot.data.bands.spec import ImageSpec, Place, check_same_bands, parse_bands, read_spec
from zoobot.system.errors import UserError


def test_bands_are_given_by_name_or_with_their_places():
    assert parse_bands(["g", "r", "z"]) == ImageSpec(("g", "r", "z"))
    spec = parse_bands(["VIS=VIS_FLUX", "u=1", "r=[2]", "i=images[3]", "Y"])
    assert spec.bands == ("VIS", "u", "r", "i", "Y")
    assert spec.places == {
        "VIS": Place("VIS_FLUX"),
        "u": Place(1),
        "r": Place(None, 2),
        "i": Place("images", 3),
    }


def test_a_spec_survives_being_written_and_read(tmp_path):
    spec = ImageSpec(
        ("g", "r"),
        {"g": Place("images", 0), "r": Place(3)},
        scaling="linear",
        noise=(0.1, 0.2),
        pixel_scale=(0.031, 0.063),
    ).with_statistics([1.0, 2.0], [3.0, 4.0])
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_dict()))
    assert read_spec(path) == spec


def test_how_bands_are_scaled_is_always_written():
    assert ImageSpec(("g", "r")).to_dict() == {
        "bands": ["g", "r"], "scaling": "asinh", "softening": 5.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "bands is None"),
        ({"bands": "grz"}, "bands is 'grz'"),
        ({"bands": []}, "give 1 to 100"),
        ({"bands": ["g", "g"]}, "each once"),
        ({"bands": ["g r"]}, "'g r' is no name of a band"),
        ({"bands": [1]}, "1 is no name of a band"),
        ({"bands": ["g"], "scalling": "asinh"}, "unknown entry 'scalling' of images"),
        ({"bands": ["g"], "scaling": "log"}, "use one of asinh, percentiles"),
        ({"bands": ["g"], "scaling": "lupton"}, "lupton is for 3 bands"),
        ({"bands": ["g"], "noise": [0]}, "give 1 numbers above 0"),
        ({"bands": ["g"], "noise": ["1"]}, "give 1 numbers above 0"),
        ({"bands": ["g", "r"], "std": [1.0]}, "give 2 numbers above 0"),
        ({"bands": ["g"], "mean": [float("nan")]}, "give 1 numbers"),
        ({"bands": ["g"], "softening": 0}, "softening"),
        ({"bands": ["g"], "places": {"r": "1"}}, "a place is given for band 'r'"),
        ({"bands": ["g"], "places": ["1"]}, "give band -> place"),
        ({"bands": ["g"], "places": {"g": "a[b]"}}, "'a[b]' is no place of a band"),
        ({"bands": ["g"], "places": {"g": ""}}, "'' is no place of a band"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_line(values, told):
    with pytest.raises(UserError) as caught:
        ImageSpec.from_dict(values)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spec_file_that_is_none_is_named(tmp_path):
    for content, told in (("{", "is no JSON"), ("[1]", 'it must hold {"bands"'), (None, "No such")):
        path = tmp_path / f"{len(told)}.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(UserError, match=told) as caught:
            read_spec(path)
        assert str(path) in str(caught.value)


def test_other_bands_than_the_model_s_are_refused_with_both_lists():
    trained = ImageSpec(("g", "r", "z"))
    check_same_bands(parse_bands(["g=1", "r=2", "z=3"]), trained)
    for bands in ("z r g", "g r i", "g r"):
        told = f"bands are {bands}, but the model was trained on g r z"
        with pytest.raises(UserError, match=told):
            check_same_bands(parse_bands(bands.split()), trained)
    with pytest.raises(UserError, match="bands are 8-bit images, but .* on g r z"):
        check_same_bands(None, trained)


def test_bands_and_specs_of_the_documentation_are_read():
    text = (Path(__file__).parents[3] / "docs" / "survey_images.md").read_text()
    commands = re.findall(r"^(?:python |    ).*--bands ([^`\n]+)", text, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        words = command.partition(" --")[0].split()
        assert len(parse_bands(words).bands) == len(words) >= 3
    specs = re.findall(r'\{"bands".*\}', text)
    assert len(specs) == 2
    for spec in specs:
        assert ImageSpec.from_dict(json.loads(spec)).to_dict().items() >= json.loads(spec).items()
