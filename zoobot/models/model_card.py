"""The model card: a README.md that says what a model is, for whom it is, and how it is used."""

import json
from collections.abc import Mapping, Sequence

from zoobot.data.dataset import ImagesSeen
from zoobot.models.preparation import preparation
from zoobot.system.errors import one_line

CARD_NAME = "README.md"
TASKS = {
    "tree": "the votes of Galaxy Zoo's volunteers: Dirichlet concentrations of every answer of a "
    "decision tree",
    "classification": "the class of a galaxy: a probability a class",
    "regression": "numbers of a galaxy, in the labels' own units",
}
UNTOLD = "Not told by the model's authors."
USE = """\
## Use

With zoobot-torch installed, from its folder:

```
python predict.py --checkpoint {source} --images FOLDER --save-loc predictions.csv
python finetune.py --encoder {source} --catalog mine.csv --label-col mine
```

or in Python:

```python
from zoobot.predictions.predict import predict_to_file

predict_to_file("catalog.csv", "{source}", "predictions.csv")
```

The model itself, a torch module, is `zoobot.predictions.models.load_predictor("{source}")`.
The weights are safetensors: nothing is executed to load them.
"""
USE_OF_A_CLASS_OF_THEIR_OWN = """\
## Use

`{name}` is a class of the authors' own, over zoobot-torch. With its code:

```python
model = {name}.load_from_checkpoint("{source}")
```

Then give `model` to `zoobot.predictions.predict.predict_to_file`. The encoder alone needs no code:
`python finetune.py --encoder {source}`.
"""


def model_card(
    description: dict,
    *,
    name: str,
    columns: Sequence[str] | None,
    channels: int,
    is_of_package: bool = True,
    training_data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    license: str | None = None,
) -> str:
    """The card, in Markdown with the hub's metadata at its head.

    Args:
        description: of the model, as its file tells it.
        name: ``OWNER/NAME``.
        columns: that it predicts; None if they are not known.
        channels: that it takes.
        is_of_package: whether its class is one of this package's, which any user has.
        training_data, metrics, license: see ``Shareable.save_pretrained``.
    """
    images = preparation(ImagesSeen.from_dict(description), channels)
    encoder = description["encoder"]
    use = USE if is_of_package else USE_OF_A_CLASS_OF_THEIR_OWN
    parts = [
        _head(license),
        f"# {_text(name.rpartition('/')[2])}\n",
        f"A `{description['class']}` on the encoder `{encoder['architecture']}`. It predicts "
        f"{TASKS.get(description.get('task'), 'what its authors say')}.\n",
        _predicted(description, columns),
        "## Images\n",
        *(
            f"{number}. {_text(step)}"
            for number, step in enumerate([*images["steps"], images["numbers"]], 1)
        ),
        "\n`predict.py` does all this.\n",
        f"## Training data\n\n{training_data or UNTOLD}\n",
        f"## Metrics\n\n{_table(metrics) if metrics else UNTOLD}\n",
        use.format(source=f"hf_hub:{name}", name=description["class"]),
    ]
    return "\n".join(parts)


def _head(license: str | None) -> str:
    told = {"library_name": "zoobot", "tags": ["zoobot", "astronomy", "galaxies"]}
    if license is not None:
        told["license"] = license
    lines = [f"{key}: {json.dumps(value)}" for key, value in told.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---", ""])


def _predicted(description: dict, columns: Sequence[str] | None) -> str:
    told = description.get("schema") or (description.get("arguments") or {}).get("schema")
    if told is not None:
        rows = ["## Decision tree\n", "| question | answers | asked after |", "|---|---|---|"]
        for question, entry in told.items():
            answers = ", ".join(_code(question + suffix) for suffix in entry["answers"])
            after = entry["asked_after"] or []
            parents = ", ".join(map(_code, [after] if isinstance(after, str) else after))
            rows.append(f"| {_code(question)} | {answers} | {parents or 'always'} |")
        return "\n".join([*rows, ""])
    names = [_code(column) for column in columns or []]
    title = "Classes" if description.get("task") == "classification" else "Columns"
    return "\n".join([f"## {title}\n", *(f"{i}. {name}" for i, name in enumerate(names)), ""])


def _table(metrics: Mapping[str, float]) -> str:
    rows = [f"| {_code(name)} | {value:.5g} |" for name, value in metrics.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _code(text: str) -> str:
    """A name as code in a table's cell."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _text(text: str) -> str:
    """Text of a line, without what Markdown or HTML would take for markup of its own."""
    return one_line(text).replace("<", "&lt;")
