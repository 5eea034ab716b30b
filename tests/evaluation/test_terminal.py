from zoobot.evaluation import terminal
from zoobot.evaluation.report import Report


def test_warnings_headlines_and_the_main_tables_are_printed(tmp_path):
    out = Report(tmp_path)
    out.warnings.append("This model is no better than a constant.")
    out.headline("accuracy", 0.76, "always “smooth”: 0.760", is_weak=True)
    out.headline("R²", float("nan"), "1 is best")
    columns = ["class", "galaxies", "precision", "precision 90%", "recall", "recall 90%"]
    rows = [["ring", 17, float("nan"), "", 0.0, "0.00 to 0.16"]]
    tables = [
        {"caption": "Scores by class", "columns": columns, "rows": rows},
        {"caption": "Other", "columns": ["a"], "rows": [["hidden"]]},
    ]
    out.section("Classes", "", {}, tables)
    assert terminal.summary(out).splitlines() == [
        "warning: This model is no better than a constant.",
        "",
        "accuracy  0.760  always “smooth”: 0.760",
        "R²        –      1 is best",
        "",
        "Scores by class",
        "class  galaxies  precision  recall  recall 90%",
        "ring         17          -   0.000  0.00 to 0.16",
    ]
