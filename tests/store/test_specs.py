import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import JobRequest
from benchfarm_core.workloads import workload_id
from benchfarm_store import jobs, specs
from benchfarm_workloads.spaces import draws, space, spaces

KERNEL = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}


def items(name, genes):
    return [{"kind": "architecture", "space": name, "genes": each} for each in genes]


def ahead_of(workloads, **fields):
    return specs.resolve_ahead(JobRequest.model_validate({"workloads": workloads, **fields})).singles


@pytest.mark.parametrize("name", [one.name for one in spaces()])
def test_architectures_that_are_resolved_at_once_are_what_each_is_by_itself(name):
    genes = [dict(one.genes) for one in draws(name, "at once", 20)]
    turned = [dict(reversed(each.items())) for each in genes]
    stray = {**genes[0], next(iter(genes[0])): 10**6}
    wanted = items(name, [*genes, *turned, stray])
    at_once, (_, *by_themselves) = ahead_of(wanted), ahead_of([KERNEL, *wanted])
    assert [one.known_id is not None for one in at_once[:40]] == [True] * 40  # else nothing was done at once
    for one, other in zip(at_once[:40], by_themselves[:40], strict=True):
        assert other.known_id is None
        assert one[:4] == other[:4]
        assert list(one.workload.genes) == list(space(name).validate(other.workload.genes).genes)
        assert one.id == other.id == workload_id(one.workload)
    for found in (at_once[40], by_themselves[40]):
        assert isinstance(found, InvalidRequest)
    assert (at_once[40].detail, at_once[40].field) == (by_themselves[40].detail, by_themselves[40].field)


def test_what_was_resolved_before_the_transaction_is_not_resolved_in_it(farm, ann, agent, job_of):
    request = job_of(1, workloads=[*items("bert", [dict(one.genes) for one in draws("bert", "job", 3)]), KERNEL])
    ahead = specs.resolve_ahead(request)
    with farm.transaction() as tx:
        _, resolved, _ = specs.resolve(tx, request, ann.account_number, make=True, ahead=ahead)
        assert all(one is other for one, other in zip(resolved, ahead.singles, strict=True))
        job, _ = jobs.submit(tx, request, by=ann, ahead=ahead)
    assert job.progress.total == 4 * len(job.platforms)
    kept = farm.scalar(
        "SELECT json_agg(json_build_array(flops, parameters, input_bytes, output_bytes, weight_bytes))"
        " FROM workloads WHERE kind = 'architecture'"
    )
    assert sorted(kept) == sorted([*vars(one.cost).values()] for one in resolved[:3])


def test_what_is_wrong_with_one_of_many_is_told_with_its_place(farm, ann, agent, job_of):
    genes = [dict(one.genes) for one in draws("bert", "job", 3)]
    genes[1] = {**genes[1], "layers": 99}
    for more in ([], [KERNEL]):
        request = job_of(1, workloads=[*items("bert", genes), *more])
        for ahead in (None, specs.resolve_ahead(request)):
            with pytest.raises(InvalidRequest, match="layers=99") as refused, farm.transaction() as tx:
                jobs.submit(tx, request, by=ann, ahead=ahead)
            assert (refused.value.code, refused.value.field) == (
                "architecture_out_of_range",
                "workloads.1.genes.layers",
            )
    assert farm.scalar("SELECT count(*) FROM jobs") == 0


def test_equal_models_are_laid_out_once():
    one, other, same = ahead_of([{"kind": "model", "name": name} for name in ("squeezenet", "resnet18", "squeezenet")])
    assert one is same
    assert one != other


def test_many_workloads_are_few_statements(farm, ann, agent, job_of):
    """One for thousands, whether they are known or not."""
    genes = [dict(one.genes) for one in draws("bert", "many", 60)]
    with farm.statements() as first:
        job = farm.submit(ann, job_of(1, workloads=items("bert", genes)))
    with farm.statements() as again:
        farm.submit(ann, job_of(1, workloads=items("bert", genes)))
    with farm.statements() as partly:
        farm.submit(ann, job_of(1, workloads=[KERNEL, *items("bert", genes)]))
    assert job.progress.total == len({str(each) for each in genes}) * len(job.platforms)
    for sent, adds in ((first, 1), (again, 0), (partly, 1)):
        assert sum("INSERT INTO workloads" in each for each in sent) == adds
        assert sum("JOIN workloads w ON w.digest" in each for each in sent) == 1


def test_many_platforms_are_one_look_and_the_first_stray_name_is_named(farm, ann, agent, job_of):
    one = farm.submit(ann, job_of(1)).platforms
    with farm.statements() as few:
        farm.submit(ann, job_of(1, platforms=one[:1]))
    with farm.statements() as many:
        job = farm.submit(ann, job_of(1, platforms=[*one[::-1], *one * 400]))
    assert job.platforms == one[::-1]
    assert len(many) == len(few)
    for stray, code in (("nonsense", "platform_unknown"), (one[0].replace("1.31.1", "9.9"), "platform_impossible")):
        with pytest.raises(InvalidRequest, match=stray) as refused:
            farm.submit(ann, job_of(1, platforms=[*one, stray, "\x00"]))
        assert (refused.value.code, refused.value.field) == (code, "platforms")


def test_what_is_too_large_is_refused_before_any_of_it_is_resolved(farm, ann, agent, job_of):
    """Whatever the catalogue says of the workloads: nobody looks at a hundred thousand of them to refuse the job."""
    strays = [{"kind": "kernel", "type": "nothing", "config": {"n": n}} for n in range(5001)]
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, job_of(1, workloads=strays, repeats=20))
    assert (refused.value.code, refused.value.detail) == ("too_large", "the job has 100020 items; the limit is 100000")
    with pytest.raises(InvalidRequest) as refused:
        farm.submit(ann, job_of(1, workloads=strays[:1] * 5001, repeats=20))
    assert refused.value.code == "kernel_unknown"
