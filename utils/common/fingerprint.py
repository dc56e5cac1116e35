"""Arrays told apart by their values: has a table or a network changed since a job began?"""

import hashlib
from collections.abc import Mapping

import numpy as np


def sha256_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Of names, shapes and values, in hexadecimal, whatever the order of the names."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()
