"""Values that cannot be changed: what a law says of its runs stays what was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray


class FrozenDict(dict[Any, Any]):
    """A dictionary that cannot be changed after it is made; it can be copied and pickled."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this dictionary cannot be changed; change a copy, dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[Any, Any]]]:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: object) -> FrozenDict:
        return self


def frozen(value: Any) -> Any:
    """Mappings, lists and arrays within each other, as ones that cannot be changed."""
    if isinstance(value, Mapping):
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(frozen, value))
    return read_only(value) if isinstance(value, np.ndarray) else value


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of an array that cannot be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def freeze_fields(instance: Any) -> None:
    """Make all fields of a frozen dataclass unchangeable; for its `__post_init__`."""
    for name in instance.__dataclass_fields__:
        object.__setattr__(instance, name, frozen(getattr(instance, name)))
