import pytest

from benchfarm_core.errors import InvalidRequest


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
