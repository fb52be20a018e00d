"""`tito profile`: what is known of a tokenizer and its template."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tito.errors import UsageError, with_hint

if TYPE_CHECKING:
    from tito.profile import Profile

ABOUT = "derive, print or save the profile of a tokenizer and its chat template"
EXAMPLE = """\
example:
  tito profile models/my-model -o my-model.profile.json
  tito convert captures/ -o rows.parquet --think strip --profile my-model.profile.json

The JSON goes to stdout (or to FILE), a summary to stderr. Nothing is downloaded.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("source", metavar="DIR|FILE|NAME", help="a tokenizer's folder or file, a profile, or a name")
    parser.add_argument("-o", "--output", metavar="FILE", help="save the profile here")
    parser.add_argument("--template", metavar="FILE", help="chat template in place of the tokenizer's own")
    parser.add_argument("--name", help="name of the profile (default: the folder's)")
    parser.add_argument("--quiet", action="store_true", help="no summary")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from tito._core import built_in_profiles
    from tito.profile import Profile
    from tito.profile.errors import NoTemplateError
    from tito.profile.find import find_profile

    if args.template or args.name:
        if args.source in built_in_profiles():
            raise with_hint(
                UsageError(f"{args.source} is built in and takes no --template and no --name"), "name a folder"
            )
        template = None if args.template is None else Path(args.template)
        try:
            found = Profile.from_tokenizer(args.source, name=args.name, chat_template=template)
        except NoTemplateError as error:
            raise with_hint(error, "give the template: --template FILE") from None
    else:
        given = find_profile(args.source)
        assert given is not None
        found = given
    if args.output:
        found.save(args.output)
    else:
        sys.stdout.write(found.to_json())
    if not args.quiet:
        sys.stderr.write(_summary(found))
    return 0


def _summary(profile: Profile) -> str:
    def ways(marker: tuple[tuple[int, ...], ...]) -> str:
        return " or ".join(" ".join(map(str, way)) for way in marker) or "none"

    def ids(values: tuple[int, ...] | None) -> str:
        return "none: thinking cannot be switched off" if values is None else " ".join(map(str, values)) or "none"

    lines = {
        "name": profile.name,
        "ids": f"{profile.vocab_size:,} (none from {profile.id_limit:,} on)",
        "thinking": f"{ways(profile.think_open)} ... {ways(profile.think_close)}" if profile.think_open else "none",
        "tool call": ways(profile.tool_open),
        "assistant": ways(profile.assistant_start),
        "stops": ids(profile.stop_ids),
        "tail, on": ids(profile.tail_think),
        "tail, off": ids(profile.tail_no_think),
        "tokenizer": profile.tokenizer_hash,
        "template": profile.template_hash,
    }
    return "".join(f"{name:<11}{text}\n" for name, text in lines.items())
