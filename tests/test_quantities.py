import math

from charlab import quantities


def test_differences_have_a_sign():
    assert quantities.signed(-0.00125, 3) == "−0.001"
    assert quantities.signed(0.02) == "+0.0200"
    assert [quantities.signed(value) for value in (math.inf, -math.inf, math.nan)] == ["+∞", "−∞", "–"]
    assert [quantities.signed(value) for value in (0.0, -0.0, 1e-6)] == ["0.0000", "0.0000", "+0.0000"]
    assert quantities.interval((-0.1, 0.25), 2) == "[−0.10, +0.25]"


def test_numbers_have_as_many_digits_as_they_need():
    assert [quantities.probability(p) for p in (1e-7, 0.00123, 0.0123, 0.0497, 0.0503, 0.123, math.nan)] == [
        "< 0.0001",
        "0.0012",
        "0.012",
        "0.0497",
        "0.0503",
        "0.12",
        "–",
    ]
    assert [quantities.amount(n) for n in (0, 4225, 1_115_394, 2.5e7, 4.23e12)] == [
        "0",
        "4,225",
        "1,115,394",
        "25 M",
        "4.23 T",
    ]
    assert [quantities.amount(n) for n in (999_400_000, 999_600_000)] == ["999 M", "1 G"]
    assert [quantities.memory(n) for n in (512, 685_338_624, 3 * 2**30)] == ["512 B", "654 MiB", "3 GiB"]
    assert [quantities.memory(n * 2**20) for n in (999.4, 999.7)] == ["999 MiB", "1,000 MiB"]
    assert [quantities.duration(s) for s in (0.73, 40.2, 600, 7200 * 3)] == ["0.7 s", "40 s", "10 min", "6.0 h"]


def test_three_digits_are_not_written_in_scientific_notation():
    values = (1.2345e-4, 12.34, 999.4, 999.6, 1024, math.inf)
    assert [quantities.three_digits(value) for value in values] == ["0.000123", "12.3", "999", "1000", "1024", "inf"]
    assert quantities.ratio(math.log(2048)) == "2048×"


def test_less_than_all_is_not_written_as_all():
    assert [quantities.percent(p) for p in (0.95, 0.98333, 0.99967, 1)] == ["95%", "98.3%", "99.967%", "100%"]


def test_work_has_its_share_of_the_peak():
    assert quantities.flop_rate(1.2e13, 4e13) == "12 TFLOP/s (30% MFU)"
    assert quantities.flop_rate(1.2e13, None) == "12 TFLOP/s"
    assert quantities.flop_rate(123, None) == "123 FLOP/s"
