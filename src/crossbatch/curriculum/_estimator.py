"""What scikit-learn asks of an estimator, for one that works without scikit-learn."""

import dataclasses
from typing import Any, Self

from crossbatch.errors import CrossbatchError, expected, nearest


class Estimator:
    """A dataclass whose fields with an initial value are its parameters; abstract."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; ``deep`` changes nothing, there is no estimator within."""
        names = [field.name for field in dataclasses.fields(self) if field.init]  # pyright: ignore[reportArgumentType]
        return {name: getattr(self, name) for name in sorted(names)}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        Raises:
            CrossbatchError: There is no such parameter.
        """
        valid = self.get_params()
        for name, value in params.items():
            if name not in valid:
                wanted = f"a parameter of {type(self).__name__}"
                raise CrossbatchError(expected(wanted, repr(name), nearest(name, valid)))
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        changed = [f"{k}={v!r}" for k, v in self.get_params().items() if v != defaults[k]]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's checks may ask: labels are needed; sparse rows are refused."""
        from sklearn.utils import (  # pyright: ignore[reportMissingTypeStubs]
            InputTags,
            Tags,
            TargetTags,
        )

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=True),
            input_tags=InputTags(),
            requires_fit=True,
        )
