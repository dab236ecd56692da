"""Which model answers a job: the one that its client pinned, else the default."""

from collections.abc import Mapping

from eco2.errors import PermanentError
from eco2.ports import Model


class Router:
    """`models` by the name that clients use; `default` is one of them."""

    def __init__(self, models: Mapping[str, Model], default: str) -> None:
        if default not in models:
            raise ValueError(f"the default model {default!r} is not among {', '.join(sorted(models))}")
        self._models = dict(models)
        self._default = default

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask for; the default first."""
        return (self._default, *sorted(self._models.keys() - {self._default}))

    def get(self, name: str | None) -> Model:
        """The model called `name`, or the default for None.

        Raises `PermanentError` with code UNSUPPORTED_MODEL, whose message lists `names`.
        """
        model = self._models.get(self._default if name is None else name)
        if model is None:
            raise PermanentError(
                f"model {name!r} is not supported; use one of: {', '.join(self.names)}", "UNSUPPORTED_MODEL"
            )
        return model
