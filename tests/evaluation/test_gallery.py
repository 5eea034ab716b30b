import pandas as pd

from zoobot.evaluation.gallery import write_gallery
from zoobot.evaluation.pictures import Pictures


def test_hostile_texts_stay_texts(tmp_path):
    catalog = pd.DataFrame({"id_str": ["a"], "file_loc": ["none.png"]})
    hostile = "<b>x</b>\u03b1"
    write_gallery(
        tmp_path / "p.html", hostile, [hostile], [(hostile, hostile)], catalog, Pictures(), ""
    )
    text = (tmp_path / "p.html").read_text()
    assert "<b>" not in text
    assert text.count("&lt;b&gt;x&lt;/b&gt;&#945;") == 5
