"""Independent streams of random numbers, all derived from the run's one seed.

Every purpose (initial weights, data order, dropout, evaluation, sampling) has a seed of its own, so that none of
them can shift another: a model that draws more numbers for its initial weights still sees the same windows.
"""

import hashlib


def derive_seed(seed: int, purpose: str) -> int:
    """Returns a seed in [0, 2⁶³) for `purpose`, a pure function of both arguments.

    Args:
        seed: the run's seed; any integer, 0 included.
        purpose: a short name, such as "initialization" or "dropout".
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
