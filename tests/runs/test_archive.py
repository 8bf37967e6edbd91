"""The archive of finished runs, which tests/tools also fill and read."""

from charlab.runs.archive import Archive
from charlab.runs.record import Record


def test_a_sample_with_any_separator_of_lines_is_kept(tmp_path):
    texts = {"first": "to be\u2028or\x85not\x0b\r\nto be\n", "second": "that is"}
    for name, text in texts.items():
        Archive(tmp_path).add(Record(tmp_path / name, name, "0" * 12), text, [])
    archive = Archive(tmp_path)
    assert {record.name: archive.sample(record) for record in archive.records()} == texts
