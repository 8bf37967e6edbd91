import resource
import sys

import pytest
import torch

from charlab.training.device import keep_freed_memory


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is meant")
def test_freed_memory_is_used_again_without_asking_the_system():
    keep_freed_memory()
    size = 100 * 2**20 // 4  # 100 MiB of float32: by default these are asked for anew each time
    for _ in range(20):  # until there is room of the right size
        torch.ones(size)
    before = page_faults()
    for _ in range(10):
        torch.ones(size)
    assert page_faults() - before < 100 * 256  # as many as one of them has pages
