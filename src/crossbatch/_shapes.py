"""Annotations with shapes: names where jaxtyping is installed, plain tensors where it is not.

Letters: B anchors, M rows of the memory, T references in a tile, D embedding width,
C candidate columns of a tile, Q queries, G gallery, R relevant images of a query.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int8, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Int8, Shaped
    except ModuleNotFoundError:

        class _Plain:
            """``Float[Tensor, "B D"]`` reads as ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Int8 = Shaped = _Plain

__all__ = ["Bool", "Float", "Int", "Int8", "Shaped"]
