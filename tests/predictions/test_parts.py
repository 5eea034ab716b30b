import pytest

from zoobot.predictions.parts import check_folder


def refused(folder, match):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ValueError, match=match):
        check_folder(folder)
    assert sorted(folder.parent.rglob("*")) == before


def test_a_folder_of_others_is_not_taken_for_one_of_parts(tmp_path):
    folder = tmp_path / "thesis.csv.parts"
    check_folder(folder)  # there is none yet
    folder.mkdir()
    check_folder(folder)
    for name in ("lock", "galaxies.arrow", ".plan.json.0123456789abcdef.partial"):
        (folder / name).touch()
    check_folder(folder)  # of a run that was killed early
    (folder / "thesis.tex").touch()
    refused(folder, "thesis.csv.parts holds 'thesis.tex' and no plan.json .*save elsewhere")
    (folder / "plan.json").touch()
    check_folder(folder)


def test_a_folder_of_parts_is_no_link_and_no_file(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "p.csv.parts").symlink_to(tmp_path / "mine")
    refused(tmp_path / "p.csv.parts", "p.csv.parts is a link to .*mine.*delete the link")
    (tmp_path / "q.csv.parts").touch()
    refused(tmp_path / "q.csv.parts", "q.csv.parts is no folder")
