"""The command line of a script: its parser, the ``--config`` file, errors in one line.

Neither torch nor timm is imported here, so that ``--help`` is answered at once.
"""

import argparse
import json
import sys
from typing import NoReturn

from zoobot.limits.text import is_utf8, read_yaml
from zoobot.system.errors import UserError, did_you_mean

NO_OPTIONS = ("environment", "config")  # of a run's config.json: what is no option for another


class Parser(argparse.ArgumentParser):
    """Help shows defaults; errors are one line, ``error: ...``, with exit code 2."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--config",
            metavar="FILE",
            help="set any option from a YAML file, or take those of a run from its config.json",
        )
        self.add_argument(
            "--debug", action="store_true", help="show tracebacks, and check gradients for NaN"
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message:.1000}")

    def parse(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parse the command line over the ``--config`` file over the defaults.

        Raises:
            ValueError: for an unknown or wrong option, on the command line or in the file.
        """
        argv = sys.argv[1:] if argv is None else argv
        for word in argv:
            _check_text(word, "an option")
        self._check_given_once(argv)
        first, _ = self._config_only().parse_known_args(argv)
        if first.config:
            argv = [*self._read_config(first.config), *argv]
        options, unknown = self.parse_known_args(argv)
        if unknown:
            near = did_you_mean(unknown[0], self._option_string_actions)
            raise UserError(f"unknown option {unknown[0]!r}{near}")
        return options

    def _check_given_once(self, argv: list[str]) -> None:
        """ValueError for an option of several values that is given twice.

        Of other options the last one counts; here the first values would go without a word.
        """
        given = [word.partition("=")[0] for word in argv if word.startswith("--")]
        for option, action in self._option_string_actions.items():
            if action.nargs == "+" and given.count(option) > 1:
                raise UserError(f"{option} is given twice: give it once, with all its values")

    def _config_only(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.error = self.error
        parser.add_argument("--config")
        return parser

    def _read_config(self, path: str) -> list[str]:
        """A YAML file's keys and values, or those of a run's config.json, as command line words."""
        try:
            settings = read_yaml(path)
        except (OSError, ValueError) as error:
            reason = str(error).replace("\n", " ")
            raise UserError(f"config {path} can't be read: {reason}") from error
        if not isinstance(settings or {}, dict):
            raise UserError(f"config {path} must hold options as 'name: value' lines")
        if isinstance((settings or {}).get("environment"), dict):  # written by a run
            settings = {key: value for key, value in settings.items() if key not in NO_OPTIONS}
        words = []
        for key, value in (settings or {}).items():
            try:
                option, text = "--" + str(key).replace("_", "-"), str(value)
            except ValueError as error:  # Python writes no number of over 4300 digits
                raise UserError(f"config {path} holds a number that is too large") from error
            _check_text(text, f"config {path}: {key!r}")
            action = self._option_string_actions.get(option)
            if action is None or action.dest in ("config", "help"):
                near = did_you_mean(option, self._option_string_actions)
                raise UserError(f"config {path}: unknown option {key!r}{near}")
            words += _words(option, value, takes_value=action.nargs != 0)
        return words


def _check_text(text: str, what: str) -> None:
    """ValueError for text that is not UTF-8, or that no file name can have."""
    if "\0" in text or not is_utf8(text):
        raise UserError(f"{what} holds {text!r:.200}, which is not UTF-8 text, or has a null in it")


def _words(option: str, value, takes_value: bool) -> list[str]:
    if not takes_value:
        if not isinstance(value, bool):
            raise UserError(f"config: {option[2:]} must be true or false, not {value!r}")
        return [option] if value else []
    if value is None:
        return []
    if isinstance(value, list):
        return [option, *map(str, value)]
    if isinstance(value, dict):
        try:
            return [f"{option}={json.dumps(value)}"]
        except TypeError as error:
            raise UserError(f"config: {option[2:]} can't be {value!r:.80}: {error}") from error
    return [f"{option}={value}"]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)
