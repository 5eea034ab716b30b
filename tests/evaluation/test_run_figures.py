import pytest

from zoobot.evaluation import run_figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    figures = []
    monkeypatch.setattr(run_figures, "save", lambda figure, path: figures.append(figure))
    return figures


def lines(key, losses, **beside):
    for epoch, loss in enumerate(losses, start=1):
        pace = {"seconds": 3.0, "images_per_s": 9.0}
        yield {"epoch": epoch, "split": "train", key("train", "loss"): loss, "extra/x": 1.0, **pace}
        validation = {key("val", name): value for name, value in beside.items()}
        yield {"epoch": epoch, "split": "validation", key("val", "loss"): loss + 0.1} | validation


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_curves_have_a_line_for_the_best_constant_and_the_truth(drawn):
    key = "{}/{}".format
    beside = {"constant/loss": 27.9, "question_loss/bar": 3.0, "constant/question_loss/bar": 4.0}
    run_figures.plot_curves([*lines(key, [30, 20], **beside)], "c.png", {"truth": 16.0})
    (axis,) = drawn[0].axes
    assert texts(axis) == ["best 20.100", "constant 27.900", "truth 16.000"]


def test_accuracies_have_curves_of_their_own_beside_the_most_frequent_class(drawn):
    key = "finetuning/{}_{}".format
    of_lines = [*lines(key, [0.5, 0.6], acc=0.8)]
    for line in of_lines:
        line |= {"finetuning/train_acc": 0.7} if line["split"] == "train" else {}
        line |= {"finetuning/val_constant/acc": 0.76} if line["split"] == "validation" else {}
    for line in of_lines:
        line.pop("extra/x", None)
    run_figures.plot_curves(of_lines, "c.png")
    loss, accuracy = drawn[0].axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    assert texts(accuracy) == ["best 0.800", "most frequent class 0.760"]
