import pytest

from zoobot.data.bands.template import files_by_template, is_template


@pytest.fixture
def folder(tmp_path):
    for name in ("a_g.fits", "a_r.fits", "b[1]_r.fits", "c_z.fits", "a_g.txt", "d_e_g.fits"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_galaxy_has_a_file_of_one_band_at_least(folder):
    table = files_by_template(f"{folder}/{{id}}_{{band}}.fits", ["g", "r"])
    assert table["id_str"].tolist() == ["a", "b[1]", "d_e"]
    assert table["file_loc"].tolist()[1] == f"{folder}/b[1]_{{band}}.fits"


def test_a_folder_a_galaxy_and_a_folder_a_band_are_found(tmp_path):
    for path in ("x/g.fits", "y/g.fits", "g/x.fits"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    ids = files_by_template(f"{tmp_path}/{{id}}/{{band}}.fits", ["g"])["id_str"]
    assert ids.tolist() == ["x", "y"]
    assert files_by_template(f"{tmp_path}/{{band}}/{{id}}.fits", ["g"])["id_str"].tolist() == ["x"]


def test_what_is_no_template_is_told(folder):
    assert not is_template(str(folder))
    with pytest.raises(ValueError, match="are for models of bands"):
        files_by_template(f"{folder}/{{id}}_{{band}}.fits", None)
    with pytest.raises(ValueError, match="one {id} and {band} are for"):
        files_by_template(f"{folder}/{{id}}.fits", ["g"])
    with pytest.raises(ValueError, match="no files .*, for any of the bands y"):
        files_by_template(f"{folder}/{{id}}_{{band}}.fits", ["y"])
