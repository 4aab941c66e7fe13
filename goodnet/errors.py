"""The one error that means: the user can mend this."""

from __future__ import annotations

_MAX_LENGTH = 20_000


class InputError(ValueError):
    """What was given cannot be used; the message names it, what was expected and what was found.

    The message is one line that is safe to print: control characters are escaped and megabytes cut
    short, because file and layer names come from whoever made the file.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _MAX_LENGTH:
            half = _MAX_LENGTH // 2
            message = f"{message[:half]} … {message[-half:]}"
        super().__init__(printable(message))


def given_without(given: str, *missing: str) -> InputError:
    """Return the error that an argument came without others that it needs.

    Commands find the names of arguments in this sentence and print them as their options.
    """
    return InputError(f"{given} is given without {' and '.join(missing)}, which it needs")


def printable(text: str) -> str:
    """Return `text` with every character that a terminal would act on escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
