"""What differs between a saved state and the run that goes on from it: options, model, galaxies.

Changes that would make it another run are refused, unless ``allow_changes``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoobot.runs.data_digest import DataDigest
from zoobot.system import distributed
from zoobot.system.errors import UserError

SOURCES = {"catalog", "val_catalog", "test_catalog", "shards"}  # options; the galaxies are compared
FREE = ("config", "debug", "save_dir")  # options that may always differ, and are not told
# Of a model's description, or of the arguments in it: what its outputs mean. Names of classes are
# read from the catalog, and whole trees from a file, so no option tells that they have changed.
MEANING = ("label_col", "num_classes", "class_names", "schema")
OF_BANDS = ("bands", "scaling", "softening", "noise", "pixel_scale")  # of a model's images
USUAL = {"head_activation": "sigmoid"}  # likewise, where a description may be older than these
ABSENT = ...
LONGEST_VALUE = 60  # characters
MOST_CHANGES = 8
CURES = (
    "start anew (--resume never), or in another folder (--save-dir), or take them "
    "(--allow-changes; of a trainer allow_changes=True)"
)


def compare_options(
    state: dict, config: dict, may_change: set[str], allow_changes: bool = False
) -> None:
    """Compare a run's options with those of the state that it goes on from.

    What differs is noted as ``changes`` of the state, for ``check_same_run`` to tell.

    Args:
        state: with its ``path``.
        config: those that the state does not have are not compared.
        may_change: names of options that may differ; those of catalogs too, if the state tells its
            galaxies.

    Raises:
        ValueError: if others differ. It lists them.
    """
    before = state.get("config", {})
    if state.get("data") is not None:
        may_change = may_change | SOURCES
    changes = {
        key: list(_differences(before[key], value, key))
        for key, value in config.items()
        if key in before and key not in FREE
    }
    refused = [text for key, texts in changes.items() if key not in may_change for text in texts]
    if refused and not allow_changes:
        raise UserError(
            f"{state['path']} belongs to a run with other options ({_listed(refused)}): {CURES}"
        )
    state["changes"] = [text for texts in changes.values() for text in texts]


def check_same_run(
    state: dict, description: dict, data: DataDigest | None, allow_changes: bool
) -> None:
    """Compare model and galaxies with those of a state, and tell all that differs.

    Args:
        state: from ``find_state``.
        description: of the model.
        data: what is known of the galaxies, on the main process; None: nothing.
        allow_changes: let them differ all the same.

    Raises:
        ValueError: on every rank, if the model's outputs mean something else, or if galaxies
            differ; it counts the changes.
    """
    refused = None
    if distributed.is_main():
        path, changes = state.get("path", "the state"), state.get("changes", [])
        meant = _other_meaning(state.get("description") or {}, description)
        meant = [text for text in meant if text not in changes]
        if meant and not allow_changes:
            refused = f"{path} is of a model with other outputs ({_listed(meant)}): {CURES}"
        else:
            refused = _compare_data(state, data, allow_changes)
        if changes + meant and not refused:
            print(f"going on from {path} with other options: {_listed(changes + meant)}")
    refused = distributed.from_main(refused)
    if refused:
        raise UserError(refused)


def _compare_data(state: dict, data: DataDigest | None, allow_changes: bool) -> str | None:
    """Why a state's run can't go on with these galaxies, or None. Tells changes that are taken."""
    path, before = Path(state.get("path", "the state")), state.get("data")
    if before is None or data is None:
        if before is not None or "data" not in state:
            print(f"{path}: its galaxies can't be compared with those that there are")
        return None
    folder = path.parent.parent if path.parent.name == "best" else path.parent
    changes = data.changes_since(before, folder / "data.safetensors")
    if not changes and data.is_reordered(before):
        if state["progress"]["epoch_step"] == 0:
            print("the training galaxies are in another order: epochs deal them out otherwise")
        else:
            changes = [
                "the training galaxies are in another order, and within an epoch some would be "
                "repeated and others left out"
            ]
    if changes and allow_changes:
        print(f"going on from {path} with other data: {'; '.join(changes)}")
    elif changes:
        return f"{path} was trained on other data ({'; '.join(changes)}): {CURES}"
    return None


def _other_meaning(before: dict, now: dict) -> list[str]:
    """What two descriptions of a model tell differently of what its outputs mean."""
    parts = [("model", before, now)]
    parts += [("model.arguments", *(told.get("arguments") or {} for told in (before, now)))]
    compared = [
        (f"{name}.{key}", was[key], is_now[key])
        for name, was, is_now in parts
        for key in MEANING
        if key in was and key in is_now
    ]
    compared += [
        (f"{name}.{key}", was.get(key, usual), is_now.get(key, usual))
        for name, was, is_now in parts
        for key, usual in USUAL.items()
    ]
    was, is_now = (told.get("bands") or {} for told in (before, now))
    compared += [
        (f"model.bands.{key}", was.get(key, ABSENT), is_now.get(key, ABSENT)) for key in OF_BANDS
    ]
    return [text for name, *values in compared for text in _differences(*values, name)]


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs within two plain values: ``a.b was 1, now 2``."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(before.get(key, ABSENT), now.get(key, ABSENT), inner)
    elif before == now:
        return
    elif _is_long_list(before) and _is_long_list(now) and len(before) == len(now):
        for place, values in enumerate(zip(before, now, strict=True)):
            yield from _differences(*values, f"{name}[{place}]")
    else:
        yield f"{name} was {_short(before)}, now {_short(now)}"


def _is_long_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(repr(value)) > LONGEST_VALUE


def _short(value: Any) -> str:
    text = "absent" if value is ABSENT else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _listed(changes: list[str]) -> str:
    more = len(changes) - MOST_CHANGES
    return "; ".join(changes[:MOST_CHANGES]) + (f"; and {more} more" if more > 0 else "")
