"""What makes two wishes the same measurement."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from benchfarm_core.measurements import MEASUREMENT_IDENTITY

OTHER = {
    "workload_id": "(SELECT max(id) FROM workloads)",
    "platform_id": "(SELECT max(id) FROM platforms)",
    "protocol_id": "(SELECT max(id) FROM protocols)",
    "timing": "'in_situ'",
    "repeat_no": "1",
}


def again(farm, **changes):
    """Inserts the first measurement once more, with some columns changed."""
    columns = [*MEASUREMENT_IDENTITY, "wanted_at", "queue_id", "expected_s", "state", "purpose"]
    values = ", ".join(changes.get(column, column) for column in columns)
    statement = f"INSERT INTO measurements ({', '.join(columns)}) SELECT {values} FROM measurements ORDER BY id LIMIT 1"
    with farm.transaction() as tx:
        tx.execute(text(statement))


def test_every_part_of_the_identity_counts_and_nothing_else(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(1, seed=1, protocol={"name": "quick"}))
    farm.submit_planned(ann, job_of(1, seed=2, protocol={"name": "kernel"}))
    farm.run("DELETE FROM job_items; DELETE FROM measurements WHERE id > (SELECT min(id) FROM measurements)")
    with pytest.raises(IntegrityError, match="identity"):
        again(farm)
    with pytest.raises(IntegrityError, match="identity"):
        again(farm, state="'done'", purpose="'golden'", expected_s="9", wanted_at="now()")
    for column in MEASUREMENT_IDENTITY:
        again(farm, **{column: OTHER[column]})
