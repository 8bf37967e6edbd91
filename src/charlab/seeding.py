"""Independent streams of random numbers, all derived from the run's seed.

Every purpose (initial weights, data order, dropout, evaluation, sampling) has its own seed, so that one cannot affect
another: a model that draws more numbers for its initial weights still sees the same windows.
"""

import hashlib


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed in [0, 2⁶³) for `purpose`. A pure function of its arguments.

    Args:
        seed: the run's seed, any integer.
        purpose: a short name, such as "initialization" or "dropout".
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
