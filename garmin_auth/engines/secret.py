"""A password or a code on its way to Garmin."""


class Secret:
    """Text that is shown by ``reveal()`` only. Error reporters print the variables of every frame.

    Args:
        text: the text, or another Secret.
    """

    __slots__ = ("_text",)

    def __init__(self, text: "str | Secret") -> None:
        if not isinstance(text, str | Secret):
            raise TypeError(f"Expected a string, not {type(text).__name__}.")
        self._text: str | None = text.reveal() if isinstance(text, Secret) else text

    def reveal(self) -> str:
        """Return the text.

        Raises:
            ValueError: this object has been pickled, which leaves the text behind.
        """
        if self._text is None:
            raise ValueError("A Secret loses its text when it is pickled.")
        return self._text

    def __repr__(self) -> str:
        return "<Secret>"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(Secret)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _lost, ()


def _lost() -> Secret:
    secret = Secret("")
    secret._text = None
    return secret
