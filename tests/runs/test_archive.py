"""The archive of finished runs, which tests/tools also fill and read."""

from charlab.runs.archive import Archive
from charlab.runs.record import Record


def test_a_sample_with_any_separator_of_lines_is_kept(tmp_path):
    texts = {"first": "to be\u2028or\x85not\x0b\r\nto be\n", "second": "that is"}
    for name, text in texts.items():
        Archive(tmp_path).add(Record(tmp_path / name, name, "0" * 12), text, [])
    archive = Archive(tmp_path)
    assert {record.name: archive.sample(record) for record in archive.records()} == texts


def test_a_run_that_was_trained_again_is_not_hidden_by_a_requalified_one(tmp_path):
    former, again = "0" * 12, "2" * 12
    requalified = [{"code": "1" * 12, "fingerprint": again}]
    Archive(tmp_path).add(Record(tmp_path / "former", "run", former, requalified=requalified), "", [])
    assert Archive(tmp_path).record(f"run/{again}").fingerprint == former
    Archive(tmp_path).add(Record(tmp_path / "again", "run", again), "", [])
    assert Archive(tmp_path).record(f"run/{again}").fingerprint == again
    assert [record.fingerprint for record in Archive(tmp_path).records()] == [former, again]
