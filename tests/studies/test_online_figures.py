"""A record that was extended by an online figure counts in a study as before."""

import json

from charlab.studies.state import read_results
from tests.helpers.made_up_study import MadeUpArm, make_study


def test_an_online_figure_is_not_a_studys_metric(tmp_path):
    plan = make_study(tmp_path, (MadeUpArm("base", 1.9), MadeUpArm("arm", 2.0)))
    before = read_results(plan, tmp_path / "outputs", tmp_path / "records")
    values = {arm.name: before.values(arm.name) for arm in plan.arms}
    for path in tmp_path.rglob("record.json"):
        record = json.loads(path.read_text())
        record["metrics"].insert(0, record["metrics"][0] | {"protocol": "online", "split": "validation", "nll": 0.5})
        path.write_text(json.dumps(record))
    after = read_results(plan, tmp_path / "outputs", tmp_path / "records")
    assert {result.status for result in after.cells} == {"finished"}
    assert {arm.name: after.values(arm.name) for arm in plan.arms} == values
    assert all(value is not None and value > 1 for arm in values.values() for value in arm.values())
