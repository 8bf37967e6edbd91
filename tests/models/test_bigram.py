import pytest

from charlab.errors import UserError
from charlab.models.bigram import Bigram


def test_a_table_that_no_memory_holds_is_refused_before_it_is_built():
    with pytest.raises(UserError, match=r"40,286² = 1,622,961,796 numbers, 6\.0 GiB.*model=bigram_embedding"):
        Bigram(40_286)
