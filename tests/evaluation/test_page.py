"""The report page: one file that fetches nothing, safe with any text, and a gallery that works."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from zoobot.data.images import read_image
from zoobot.evaluation.page import thumbnail, write_page

HOSTILE = '</script><!--<script><img src=x onerror=alert(1)>&"\u2028@@DATA@@'
NUM_ANSWERS = 7
QUESTIONS = [
    {"name": "smooth", "answers": ["yes", "featured"], "asked_after": []},
    {"name": "bar", "answers": ["strong", "weak", "none"], "asked_after": [1]},
    {"name": "bar colour", "answers": ["red", "blue"], "asked_after": [2, 3]},
]
for each in QUESTIONS:
    each["beats_constant"] = True
WAIT_S = 20


def picture(width=24, height=24, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def png(width=900, height=60):
    file = io.BytesIO()
    picture(width, height).save(file, format="PNG")
    return file.getvalue()


def galaxy(i, rng):
    smooth, bar, colour = rng.dirichlet([1, 1]), rng.dirichlet([1, 1, 1]), rng.dirichlet([1, 1])
    fractions = np.concatenate([smooth, bar, colour])
    asked = np.array([1, smooth[1], smooth[1] * (bar[0] + bar[1])])
    answers = zip((40 * asked).round().astype(int), (smooth, bar, colour), strict=True)
    return {
        "id": f"J{i:04d}",
        "image": thumbnail(picture(seed=i), 32),
        "fractions": fractions,
        "lower": np.clip(fractions - 0.1, 0, 1),
        "upper": np.clip(fractions + 0.1, 0, 1),
        "asked": asked,
        "votes": np.concatenate([rng.multinomial(n, rng.dirichlet(4 * p)) for n, p in answers]),
        "error": rng.random(),
    }


@pytest.fixture
def page():
    rng = np.random.default_rng(0)
    table = {
        "caption": "Error by question, with a caption long enough to wrap on any phone",
        "columns": ["question", "galaxies", "error", "coverage of the 90% interval, nominal 0.9"],
        "rows": [["smooth", 80, 0.12345, 0.9], ["bar", 41, None, float("nan")]],
    }
    figure = {"file": "confusion_matrix.png", "png": png(), "caption": "Leading answers."}
    figure["narrow"] = png(120, 200)
    headline = {"label": "accuracy", "value": "0.853", "detail": "80 galaxies", "is_weak": False}
    return {
        "title": "A model",
        "subtitle": "of galaxies",
        "about": [("catalog", "cat.parquet"), ("epoch", "7")],
        "warnings": ["40 of these 80 galaxies were trained on."],
        "task": "tree",
        "pictures": "",
        "notes": ["80 of 80 predictions joined"],
        "headlines": [headline],
        "sections": [{"title": "Errors", "text": "Two.", "figures": [figure], "tables": [table]}],
        "questions": QUESTIONS,
        "galaxies": [galaxy(i, rng) for i in range(80)],
    }


@pytest.fixture
def classes(page):
    """The page of a classification, with one galaxy whose class is not known."""
    asked_once = {"name": "class", "answers": ["spiral", "elliptical"], "asked_after": []}
    asked_once["beats_constant"] = True
    unlike_a_tree = {"lower": None, "upper": None, "asked": [1], "votes": None}
    galaxies = [
        {"id": f"J{i}", "image": None, "label": label, "fractions": fractions, "error": 0.5}
        | unlike_a_tree
        for i, (label, fractions) in enumerate(
            [(0, [0.9, 0.1]), (1, [0.8, 0.2]), (None, [0.3, 0.7])]
        )
    ]
    task = {"task": "classification", "questions": [asked_once], "galaxies": galaxies}
    return page | task


@pytest.fixture
def values(page):
    """The page of a regression."""
    pairs = [(0.43, 0.40), (0.90, 0.20), (0.11, 0.70)]
    galaxies = [
        {"id": f"J{i}", "image": None, "predicted": a, "truth": b, "error": abs(a - b)}
        for i, (a, b) in enumerate(pairs)
    ]
    return page | {"task": "regression", "questions": [], "galaxies": galaxies}


@pytest.fixture
def written(tmp_path):
    def write(page):
        write_page(tmp_path / "report.html", page)
        return (tmp_path / "report.html").read_text(encoding="ascii")

    return write


def data_in(text):
    script = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(script[1])


def test_the_page_refers_to_nothing_outside_itself(written, page):
    text = written(page)
    assert not re.search(r"https?://|@import|<link|\burl\(", text)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert "default-src 'none'; img-src data:;" in text
    assert not re.search(r"@@[A-Z]+@@", text)


def test_numbers_figures_and_tables_need_no_javascript(written, page):
    static = re.sub(r"<script.*?</script>", "", written(page), flags=re.S)
    assert "<h1>A model</h1>" in static
    assert "80 of 80 predictions joined" in static
    assert "0.853" in static
    source = base64.b64encode(page["sections"][0]["figures"][0]["png"]).decode()
    assert f'<img src="data:image/png;base64,{source}" alt="confusion matrix">' in static
    rows = re.sub(r' data-name="[^"]*"', "", static)
    assert "<td>smooth</td><td class=number>80</td><td class=number>0.123</td>" in rows
    assert "<td>bar</td><td class=number>41</td><td class=number>&#8211;</td>" in rows
    assert "<dt>catalog</dt><dd>cat.parquet</dd>" in static
    assert '<p class="warning" role="note">40 of these 80 galaxies were trained on.</p>' in static


def test_hostile_text_stays_text(written, page):
    for key in ("title", "subtitle"):
        page[key] = HOSTILE
    page["notes"] = page["warnings"] = [HOSTILE]
    page["about"] = [(HOSTILE, HOSTILE)]
    page["headlines"] = [dict.fromkeys(("label", "value", "detail"), HOSTILE) | {"is_weak": True}]
    section = page["sections"][0]
    section["title"] = section["text"] = section["figures"][0]["caption"] = HOSTILE
    section["figures"][0]["file"] = f"{HOSTILE}.png"
    section["tables"] = [{"caption": HOSTILE, "columns": [HOSTILE], "rows": [[HOSTILE]]}]
    page["galaxies"][0]["id"] = HOSTILE
    page["questions"] = [{**QUESTIONS[0], "name": HOSTILE}, *QUESTIONS[1:]]
    text = written(page)
    assert "<img src=x" not in text
    assert "<!--" not in text
    assert text.count("</script>") == 2
    assert data_in(text)["galaxies"][0]["id"] == HOSTILE
    assert data_in(text)["questions"][0]["name"] == HOSTILE


def test_values_that_json_lacks_become_null(written, page):
    page["galaxies"][0]["error"] = float("nan")
    page["galaxies"][0]["fractions"] = np.array([np.inf, np.nan, 0.25, 0, 0, 0, 0])
    first = data_in(written(page))["galaxies"][0]
    assert first["error"] is None
    assert first["fractions"][:3] == [None, None, 0.25]


def test_a_page_without_galaxies_figures_or_tables_is_written(written, page):
    table = {"caption": "", "columns": ["a", "b"], "rows": []}
    page["sections"] = [{"title": "None", "text": "", "figures": [], "tables": [table]}]
    text = written(
        page | {"galaxies": [], "headlines": [], "notes": [], "about": [], "warnings": []}
    )
    assert "<th>a</th><th>b</th>" in text


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 300), (20, 10)])
def test_a_thumbnail_is_the_central_square(width, height):
    image = Image.new("RGB", (width, height), "red")
    side = min(width, height)
    corner = ((width - side) // 2, (height - side) // 2)
    image.paste("blue", (*corner, corner[0] + side, corner[1] + side))
    kind, content = thumbnail(image, 64).split(",")
    assert kind == "data:image/jpeg;base64"
    small = Image.open(io.BytesIO(base64.b64decode(content)))
    assert small.size == (64, 64)
    red, _, blue = np.asarray(small)[4:-4, 4:-4].mean(axis=(0, 1))
    assert blue > 240
    assert red < 10


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


class Gallery:
    """The page in a browser."""

    def __init__(self, browser, path, width_px=1200):
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser = browser
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # what earlier pages left
        browser.get(path.as_uri())

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def texts(self, selector):
        found = self.browser.find_elements("css selector", selector)
        return [element.text for element in found]

    def choose(self, box, text):
        from selenium.webdriver.support.select import Select

        Select(self.find(f"#{box}")).select_by_visible_text(text)

    def ids(self):
        thumbs = self.browser.find_elements("css selector", "#grid button")
        return [thumb.get_attribute("data-id") for thumb in thumbs]

    def count(self):
        return int(self.find("#count").text.split()[0])

    def press(self, key):
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.browser).send_keys(getattr(Keys, key)).perform()

    def until(self, holds):
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, WAIT_S).until(lambda _: holds())

    def focused_id(self):
        return self.browser.switch_to.active_element.get_attribute("data-id")


@pytest.fixture
def opened(browser, written, tmp_path):
    def open_page(page, **options):
        written(page)
        return Gallery(browser, tmp_path / "report.html", **options)

    return open_page


def test_the_browser_reports_no_error_and_fetches_nothing(opened, page):
    page["galaxies"][0] |= {"id": HOSTILE, "image": None}
    gallery = opened(page)
    gallery.find("#grid button").click()
    gallery.until(lambda: gallery.find("#galaxy-id").text.startswith("</script>"))
    assert gallery.browser.get_log("browser") == []
    log = [
        json.loads(entry["message"])["message"] for entry in gallery.browser.get_log("performance")
    ]
    urls = [
        each["params"]["request"]["url"]
        for each in log
        if each["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file:") for url in urls)
    assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
    assert len([url for url in urls if url.startswith("file:")]) == 1


def test_a_script_that_is_not_the_pages_own_does_not_run(browser, written, page, tmp_path):
    harm = "<script>document.title = 'harm'</script><img src=x onerror=\"document.title='harm'\">"
    path = tmp_path / "harmed.html"
    path.write_text(written(page).replace("<h1>", harm + "<h1>"))
    gallery = Gallery(browser, path)
    gallery.find("#grid button")
    assert browser.title == "A model"


def test_a_missing_image_leaves_a_placeholder(opened, page):
    page["galaxies"][1]["image"] = None
    gallery = opened(page)
    assert gallery.texts("#grid .image")[:3] == ["", "no image", ""]


def test_a_thumbnail_has_pixels_and_no_notes_of_the_image():
    noted, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "told-exif"
    told = {"exif": exif, "comment": b"told-comment", "icc_profile": b"told-icc"}
    Image.new("RGB", (40, 40)).save(noted, "JPEG", **told)
    content = base64.b64decode(thumbnail(read_image(noted.getvalue())).split(",")[1])
    assert b"told-" not in content


def test_sorting_orders_the_thumbnails(opened, page):
    gallery = opened(page)
    galaxies = {each["id"]: each for each in page["galaxies"]}
    assert gallery.ids() == list(galaxies)[:60]
    gallery.choose("sort", "most confident")
    leads = [max(galaxies[each]["fractions"][:2]) for each in gallery.ids()]
    assert leads == sorted(leads, reverse=True)
    assert gallery.ids()[0] != "J0000"
    gallery.choose("sort", "least confident")
    assert max(galaxies[gallery.ids()[0]]["fractions"][:2]) < leads[-1]
    gallery.choose("sort", "largest error")
    assert gallery.ids()[0] == max(galaxies, key=lambda each: galaxies[each]["error"])


def test_the_error_of_a_chosen_question_is_half_the_summed_difference(opened, page):
    def error(galaxy):
        votes = galaxy["votes"][2:5]
        return np.abs(galaxy["fractions"][2:5] - votes / votes.sum()).sum() / 2

    gallery = opened(page)
    gallery.choose("question", "bar")
    gallery.choose("sort", "largest error")
    asked = [each for each in page["galaxies"] if each["asked"][1] >= 0.5]
    expected = [each["id"] for each in sorted(asked, key=error, reverse=True)]
    assert gallery.ids() == expected[:60]


def test_question_answer_and_search_narrow_the_gallery(opened, page):
    gallery = opened(page)
    assert gallery.find("#count").text == "80 of 80 galaxies"
    gallery.choose("question", "bar")
    asked = [each for each in page["galaxies"] if each["asked"][1] >= 0.5]
    assert gallery.count() == len(asked) < 80
    gallery.choose("answer", "weak")
    weak = [each for each in asked if np.argmax(each["fractions"][2:5]) == 1]
    assert gallery.count() == len(weak) > 1
    assert all(text.startswith("weak 0.") for text in gallery.texts("#grid .caption"))
    gallery.choose("sort", "highest fraction of the answer")
    assert gallery.ids()[0] == max(weak, key=lambda each: each["fractions"][3])["id"]
    gallery.find("#search").send_keys(weak[-1]["id"].lower())
    assert gallery.ids() == [weak[-1]["id"]]


def test_right_and_wrong_follow_the_volunteers(opened, page):
    page["galaxies"][3]["votes"] = None
    page["galaxies"][4]["votes"][:2] = 5, 5  # a tie goes to no one
    gallery = opened(page)
    known = [each for each in page["galaxies"] if each["votes"] is not None]
    known = [each for each in known if each["votes"][0] != each["votes"][1]]
    is_right = [
        each["votes"][np.argmax(each["fractions"][:2])] == max(each["votes"][:2]) for each in known
    ]
    gallery.choose("show", "right (as the volunteers)")
    assert gallery.count() == sum(is_right)
    gallery.choose("show", "wrong")
    assert gallery.count() == len(known) - sum(is_right) > 0
    assert set(gallery.texts("#grid .caption span")) == {"\u2717"}


def test_galaxies_of_a_true_answer_are_shown_also_where_the_model_missed_them(opened, page):
    def leader(galaxy):
        votes = galaxy["votes"][2:5]
        return np.argmax(votes) if (votes == votes.max()).sum() == 1 else None

    gallery = opened(page)
    gallery.choose("question", "bar")
    gallery.choose("truth", "strong")
    strong = [each for each in page["galaxies"] if leader(each) == 0]
    assert gallery.count() == len(strong)
    assert any(each["asked"][1] < 0.5 for each in strong)
    gallery.choose("answer", "weak")
    missed = [each["id"] for each in strong if np.argmax(each["fractions"][2:5]) == 1]
    assert gallery.ids() == missed != []


def test_a_question_that_nobody_is_asked_explains_itself(opened, page):
    for each in page["galaxies"]:
        each["asked"][2] = min(each["asked"][2], 0.31)
    gallery = opened(page)
    gallery.choose("question", "bar colour")
    told = gallery.find("#count").text
    assert told.startswith("0 of 80 galaxies: of none of them at least half of the volunteers")
    assert "at most 31%" in told
    gallery.choose("question", "all")
    gallery.find("#search").send_keys("nothing")
    assert gallery.find("#count").text == "0 of 80 galaxies: none fits all that is chosen."


def test_a_model_no_better_than_a_constant_gets_no_ticks(opened, page):
    page["questions"] = [QUESTIONS[0] | {"beats_constant": False}, *QUESTIONS[1:]]
    gallery = opened(page)
    assert set(gallery.texts("#grid .caption span")) == {"\u2717"}
    assert (
        "on \u201csmooth\u201d the model is no better than a constant"
        in gallery.find("#count").text
    )
    gallery.choose("question", "bar")
    assert "\u2713" in gallery.texts("#grid .caption span")
    assert "constant" not in gallery.find("#count").text


def test_a_phone_has_narrow_figures_and_tables_without_scrolling(opened, page):
    shown = "return [...document.querySelectorAll('figure img')].map((each) => each.naturalWidth)"
    fits = "const t = document.querySelector('.scroll'); return t.scrollWidth <= t.clientWidth"
    for width_px, figure_px in ((1200, 900), (380, 120)):
        gallery = opened(page, width_px=width_px)
        gallery.until(lambda: gallery.browser.execute_script(shown) == [figure_px])  # noqa: B023
    assert gallery.browser.execute_script(fits)
    cell = "return getComputedStyle(document.querySelector('td.number'), '::before').content"
    assert "galaxies" in gallery.browser.execute_script(cell)


def test_more_thumbnails_are_shown_on_demand(opened, page):
    gallery = opened(page)
    assert len(gallery.ids()) == 60
    gallery.find("#more").click()
    assert len(gallery.ids()) == 80
    assert not gallery.find("#more").is_displayed()


def test_a_click_shows_the_galaxy_and_its_vote_tree(opened, page):
    gallery = opened(page)
    gallery.find("#grid button").click()
    gallery.until(gallery.find("#galaxy").is_displayed)
    assert gallery.find("#galaxy-id").text == "J0000"
    assert len(gallery.texts("#galaxy .row")) == NUM_ANSWERS
    assert "colour" in gallery.find("#galaxy .question .question .question h3").text
    votes = page["galaxies"][0]["votes"]
    assert gallery.texts("#galaxy .votes")[0] == f"{votes[0]} of {votes[:2].sum()}"
    dimmed = len(gallery.texts("#galaxy .dim"))
    assert dimmed == (page["galaxies"][0]["asked"] < 0.5).sum()


def test_keys_step_through_the_list_and_close(opened, page):
    gallery = opened(page)
    gallery.choose("sort", "most confident")
    first, second = gallery.ids()[:2]
    gallery.browser.execute_script("document.querySelector('#grid button').focus()")
    gallery.press("ENTER")
    gallery.until(lambda: gallery.find("#galaxy-id").text == first)
    gallery.press("ARROW_RIGHT")
    gallery.until(lambda: gallery.find("#galaxy-id").text == second)
    gallery.press("ARROW_LEFT")
    gallery.press("ARROW_LEFT")  # there is none before the first
    gallery.until(lambda: gallery.find("#galaxy-id").text == first)
    gallery.press("ESCAPE")
    gallery.until(lambda: not gallery.find("#galaxy").is_displayed())
    gallery.until(lambda: gallery.focused_id() == first)


def test_focus_follows_to_the_galaxy_last_seen(opened, page):
    gallery = opened(page)
    gallery.browser.execute_script("document.querySelector('#grid button:nth-child(60)').click()")
    gallery.find("#next").click()
    gallery.find("#close").click()
    gallery.until(lambda: gallery.focused_id() == "J0060")


@pytest.mark.parametrize("kind", ["page", "classes", "values"])
def test_a_phone_shows_the_page_without_sideways_scrolling(opened, kind, request):
    gallery = opened(request.getfixturevalue(kind), width_px=360)
    width = "return document.documentElement.scrollWidth"
    assert gallery.browser.execute_script(width) <= 360
    gallery.browser.execute_script("document.querySelector('#grid button').click()")
    fits = "const box = document.getElementById('galaxy'); return box.scrollWidth - box.clientWidth"
    assert gallery.browser.execute_script(fits) == 0
    assert gallery.browser.get_log("browser") == []


def test_a_classification_marks_the_true_class(opened, classes):
    gallery = opened(classes)
    assert not gallery.find("#question").is_displayed()
    assert gallery.texts("#grid .caption") == [
        "spiral 0.90\n\u2713",
        "spiral 0.80\n\u2717",
        "elliptical 0.70",
    ]
    gallery.choose("truth", "elliptical")
    assert gallery.ids() == ["J1"]
    gallery.choose("truth", "any")
    gallery.choose("show", "wrong")
    assert gallery.ids() == ["J1"]
    gallery.find("#grid button").click()
    assert gallery.texts("#galaxy .votes") == ["", "true class"]


def test_a_regression_shows_predicted_and_true(opened, values):
    gallery = opened(values)
    assert gallery.texts(".controls label")[:4] == ["", "", "", ""]
    assert gallery.texts("#grid .caption")[0] == "0.43 (true 0.40)"
    gallery.choose("sort", "largest error")
    assert gallery.ids() == ["J1", "J2", "J0"]
    gallery.choose("sort", "highest true")
    assert gallery.ids() == ["J2", "J0", "J1"]
    gallery.find("#grid button").click()
    assert gallery.texts("#galaxy dd") == ["0.11", "0.7", "0.59"]


def test_the_gallery_and_an_open_galaxy_say_which_bands_are_shown(opened, page):
    gallery = opened(page | {"pictures": "red z, green r, blue g"})
    assert gallery.find("#hint").text.endswith("Pictures: red z, green r, blue g.")
    gallery.find("#grid button").click()
    assert gallery.find("#bands").text == "red z, green r, blue g"
    gallery = opened(page)
    assert "Pictures" not in gallery.find("#hint").text
