"""Which profile a name, a folder or a file stands for."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from pathlib import Path

from tito._core import built_in_profiles
from tito.errors import UsageError, with_hint
from tito.profile import Profile
from tito.profile.errors import NoTemplateError

__all__ = ["find_profile"]


def find_profile(what: Profile | str | os.PathLike[str] | None) -> Profile | None:
    """The profile that `what` stands for: a built-in name, a tokenizer's folder, a `tokenizer.json`, or a profile
    that `tito profile` wrote. None stays None: the core then looks among the built-in ones.

    A built-in name wins over a folder of that name; `./qwen3` is the folder. Raises `UsageError` (`ProfileError` for a
    tokenizer that cannot be read).

    >>> find_profile("qwen3").vocab_size
    151669
    """
    if what is None or isinstance(what, Profile):
        return what
    names = built_in_profiles()
    if isinstance(what, str) and what in names:
        return Profile.named(what)
    path = Path(what)
    try:
        if path.is_dir():
            return Profile.from_tokenizer(path)
        if path.is_file():
            return Profile.load(path) if _is_profile(path) else Profile.from_tokenizer(path)
    except NoTemplateError as error:
        hint = f"give the template: `tito profile {path} --template FILE -o p.json`"
        raise NoTemplateError(str(error), hint) from None
    near = get_close_matches(os.fspath(what), names, 1)
    raise with_hint(
        UsageError(f"profile {os.fspath(what)!r} is no built-in name ({', '.join(names)}), no folder and no file"),
        f"did you mean {near[0]}?" if near else "name a tokenizer folder, or a file made by `tito profile`",
    )


def _is_profile(path: Path) -> bool:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(value, dict) and "tail_think" in value
