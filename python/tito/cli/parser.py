"""argparse with our manners: errors end in a hint, a wrong name suggests the nearest, options are never shortened."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """See the module. `epilog` keeps its lines."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def parse(self, args: Sequence[str] | None) -> argparse.Namespace:
        """As `parse_args`, but an unknown option is an error of its verb, which knows the nearest one."""
        given = list(sys.argv[1:] if args is None else args)
        command: list[str] | None = None
        if "--" in given and self._verb(given[0]).get_default("command") is not None:
            at = given.index("--")
            given, command = given[:at], given[at + 1 :]
        known, unknown = self.parse_known_args(given)
        if command is not None:
            known.command = command
        # argparse takes a list of arguments only up to the first option behind it.
        if (late := getattr(known, "late", None)) and not any(argument.startswith("-") for argument in unknown):
            getattr(known, late).extend(unknown)
            unknown = []
        if unknown:
            getattr(known, "parser", self).error(f"unrecognized arguments: {' '.join(unknown)}")
        return known

    def _verb(self, name: str) -> argparse.ArgumentParser:
        """The parser of a verb; a verb whose `command` has a default takes what stands behind `--` as a command."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                found: argparse.ArgumentParser = action.choices[name]
                return found
        return self

    def error(self, message: str) -> NoReturn:
        """Prints message and hint on stderr and exits with 2."""
        print(f"error: {message}", file=sys.stderr)
        print(f"hint: {self._hint(message)}", file=sys.stderr)
        sys.exit(2)

    def _hint(self, message: str) -> str:
        if match := re.match(r"unrecognized arguments: (--?[\w-]+)", message):
            options = [option for action in self._actions for option in action.option_strings]
            if near := get_close_matches(match[1], options, 1):
                return f"did you mean {near[0]}? `{self.prog} --help` lists the options"
        if match := re.match(r"unrecognized arguments: ([^-\s]\S*)", message):
            return f"leave {match[1]} out; `{self.prog} --help` shows what it takes"
        if (match := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)) and (
            near := get_close_matches(match[1], re.findall(r"[\w.-]+", match[2]), 1)
        ):
            return f"did you mean {near[0]}?"
        return f"`{self.prog} --help` lists the arguments and ends in an example"
