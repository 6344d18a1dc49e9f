"""numpy arrays in and out, or torch tensors where the caller has them. torch is never imported here."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def array_of(value: Any) -> NDArray[Any]:
    """The values of a tensor, an array or a number."""
    if not is_tensor(value):
        return np.asarray(value)
    value = value.detach().cpu()
    # numpy has no bfloat16
    array: NDArray[Any] = (value.float() if value.is_floating_point() else value).numpy()
    return array


def like(result: NDArray[Any], *given: Any) -> Any:
    """result, as a tensor where one of the values given is a tensor: ids as int64 then, as torch has them."""
    if not any(is_tensor(value) for value in given):
        return result
    tensor = sys.modules["torch"].from_numpy(result)
    return tensor.long() if result.dtype == np.int32 else tensor
