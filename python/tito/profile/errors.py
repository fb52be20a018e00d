"""The error of this room."""

from __future__ import annotations

from tito.errors import UsageError

PROFILE_EXTRA = "in the checkout: pip install '.[profile]'"
"""What to do where a package that reads tokenizers is missing."""


class ProfileError(UsageError):
    """A profile, tokenizer or chat template that cannot be used. `str(e)` says what was seen, `e.hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.hint = hint

    def __str__(self) -> str:
        return str(self.args[0])


class NoTemplateError(ProfileError):
    """A tokenizer without a chat template."""
