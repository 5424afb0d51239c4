"""Fusion rules as they were measured, and the kernels that models come to by them."""

import pytest

from benchfarm_core.boards import MARK_PREFIXES
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.jobs import JobRequest
from benchfarm_core.platforms import parse_platform_key
from benchfarm_store import fusions, models

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
WIDE = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"


def row(first="Conv", second="Relu", times=(1.0, 0.2, 1.0), **more):
    names = ("t1_ms", "t2_ms", "t12_ms") if times else ()
    return FusionRow(first=first, second=second, **dict(zip(names, times or (), strict=True)), **more)


def report(farm, *rows, key=KEY):
    with farm.transaction() as tx:
        return fusions.report(tx, key, FusionReport(rows=rows))


def rules(farm, key=KEY):
    with farm.transaction() as tx:
        return fusions.get_fusions(tx, key)


def test_nothing_measured_is_said_and_the_default_stands(farm, agent):
    found = rules(farm)
    assert (found.rules, found.measured, found.disagreements) == ("default", [], [])
    assert ("Conv", "Relu") in found.default
    assert (found.engine, found.precision) == ("onnxruntime-1.31.1", "fp32")


def test_the_verdict_is_the_farm_s_and_contradictions_are_listed(farm, agent):
    rows = [
        row(by_profile=True),
        row("Conv", "Add", (1, 0.2, 1.2), by_profile=True),
        row("Add", "Relu", None, by_profile=False),
    ]
    found = report(farm, *rows)
    assert [(one.first, one.second, one.by_latency, one.by_profile, one.fused) for one in found.measured] == [
        ("Add", "Relu", None, False, False),
        ("Conv", "Add", False, True, True),
        ("Conv", "Relu", True, True, True),
    ]
    assert [(one.first, one.second) for one in found.disagreements] == [("Conv", "Add")]
    assert found.rules == "measured"


def test_what_a_later_row_leaves_out_stays(farm, agent):
    report(farm, row(times=(1, 0.2, 1.2)))
    report(farm, row(times=None, by_profile=True))
    (found,) = rules(farm).measured
    assert (found.by_latency, found.by_profile, found.t12_ms, found.disagree) == (False, True, 1.2, True)
    report(farm, row(times=(1, 0.2, 0.9)))
    (found,) = report(farm, row(times=(1, 0.2, 0.9))).measured
    assert (found.by_latency, found.t12_ms, found.disagree) == (True, 0.9, False)


def test_times_that_cannot_tell_are_kept_and_the_default_counts(farm, ann, agent):
    report(farm, row(times=(1, 0.2, 1.2), by_profile=False))
    (found,) = report(farm, row(spread_ms=0.3)).measured
    assert (found.by_latency, found.by_profile, found.fused, found.spread_ms) == (None, False, False, 0.3)
    (_, other, _) = report(farm, row("Conv", "Sigmoid", spread_ms=0.3), row("Conv", "Add", spread_ms=0.3)).measured
    assert (other.second, other.by_latency, other.fused, other.disagree) == ("Relu", None, False, False)
    fused = {one.second: one.fused for one in rules(farm).measured}
    assert fused == {"Add": False, "Relu": False, "Sigmoid": True}
    squeezenet = kernels(farm, "squeezenet", ann)
    assert ("Conv", "Relu") not in squeezenet.assumed
    assert len(squeezenet.kernels) > 38


def test_rules_are_the_engine_s_on_every_board_and_of_its_precision_alone(farm, agent):
    report(farm, row())
    assert rules(farm, WIDE).rules == "measured"
    with farm.transaction() as tx:
        for other in (KEY.replace("fp32", "int8"), KEY.replace("1.31.1", "1.32.0"), KEY.replace("1.1/", "1.1~x=1/")):
            assert fusions.fusion_rules(tx, parse_platform_key(other)) == []


def test_boards_of_different_models_keep_rules_of_their_own(farm, ann, agent, report_of):
    farm.agent(ann, report_of("s2", board_model="host-b"), name="second lab")
    elsewhere = KEY.replace("host-a", "host-b")
    report(farm, row(times=(1, 0.2, 1.2)))
    borrowed = rules(farm, elsewhere)
    assert (borrowed.rules, [one.board_model for one in borrowed.measured]) == ("other_board_model", ["host-a"])
    report(farm, row("Conv", "Add", (1, 0.2, 1.2)))
    report(farm, row(times=(1, 0.2, 0.9)), key=elsewhere)
    here, there = rules(farm), rules(farm, elsewhere)
    assert (here.rules, there.rules) == ("measured", "measured")
    assert [(one.second, one.board_model, one.fused) for one in here.measured] == [
        ("Add", "host-a", False),
        ("Relu", "host-a", False),
    ]
    assert [(one.second, one.board_model, one.fused) for one in there.measured] == [
        ("Add", "host-a", False),
        ("Relu", "host-b", True),
    ]
    assert kernels(farm, "squeezenet", ann, elsewhere).rules == "measured"


@pytest.mark.parametrize("mark", sorted(MARK_PREFIXES))
def test_boards_with_marks_lend_no_rules_to_others(farm, ann, agent, report_of, mark):
    model = f"{MARK_PREFIXES[mark]}host-m"
    farm.agent(ann, report_of("m", board_model=model, marks=[mark]), name="marked lab")
    marked = KEY.replace("host-a", model)
    assert report(farm, row(times=(1, 0.2, 1.2)), key=marked).rules == "measured"
    assert (rules(farm).rules, rules(farm).measured) == ("default", [])
    report(farm, row("Conv", "Add", (1, 0.2, 1.2)))
    assert [one.second for one in rules(farm).measured] == ["Add"]
    assert [one.second for one in rules(farm, marked).measured] == ["Add", "Relu"], "they borrow from others"


def test_a_platform_that_is_none(farm, ann, agent):
    for name in ("nowhere", "\x00", KEY.replace("1.31.1", "9")):
        with pytest.raises(NotFound):
            rules(farm, name)
        with pytest.raises(NotFound):
            report(farm, row(), key=name)
        with farm.transaction() as tx, pytest.raises(InvalidRequest):
            fusions.model_kernels(tx, "resnet18", name, ann)


def value(role, *shape):
    return {"role": role, "dtype": "float32", "shape": shape}


def upload(farm, by, *more, **read):
    def node(op, source, made, **attributes):
        return {"op": op, "name": made, "inputs": [source, "w"], "outputs": [made], "attributes": attributes}

    nodes = [node("Conv", "x", "c", kernel_shape=[1, 1]), node("Relu", "c", "r"), node("NonZero", "r", "y")]
    nodes += [node(*one) for one in more]
    values = {"w": value("weight", 4, 4, 1, 1), **{name: value("inner", 1, 4, 8, 8) for name in "xcr"}}
    model = models.NewModel(
        name="m",
        sha256="a" * 64,
        size_bytes=100,
        opset=17,
        dims={},
        inputs=(),
        graph={"nodes": nodes, "values": values, **read},
        flops=None,
        parameters=1,
    )
    with farm.transaction() as tx:
        return models.add(tx, model, by=by).id


def kernels(farm, model_id, by, key=KEY):
    with farm.transaction() as tx:
        return fusions.model_kernels(tx, model_id, key, by)


def test_the_kernels_of_an_upload_by_the_rules_of_the_platform(farm, ann, agent):
    model_id = upload(farm, ann)
    found = kernels(farm, model_id, ann)
    assert (found.rules, found.platform, found.assumed) == ("default", KEY, [("Conv", "Relu")])
    fused, unknown = found.kernels
    (part,) = fused.parts
    assert (part.type, part.operators, part.names) == ("conv-bn-act", ["Conv", "Relu"], ["c", "r"])
    assert part.config == {"hw": 8, "cin": 4, "cout": 4, "k": 1, "s": 1, "act": "relu", "batch": 1}
    assert (unknown.parts[0].type, unknown.parts[0].reason) == (None, "the catalogue has no kernel type for NonZero")
    assert [(one.operator, one.count) for one in found.unknown] == [("NonZero", 1)]
    report(farm, row(times=(1, 0.2, 1.2)))
    apart = kernels(farm, model_id, ann)
    assert (apart.rules, apart.assumed) == ("measured", [])
    assert [part.type for kernel in apart.kernels for part in kernel.parts] == ["conv-bn-act", "act", None]


def test_an_upload_that_was_read_before_numbers_were_kept_says_so_until_it_is_uploaded_again(farm, ann, agent):
    clip = ("Clip", "c", "k")
    model_id = upload(farm, ann, clip)

    def reasons():
        parts = [part for kernel in kernels(farm, model_id, ann).kernels for part in kernel.parts]
        return {part.operators[0]: part.reason for part in parts if part.type is None}

    assert reasons()["Clip"].endswith(fusions.UPLOAD_AGAIN)
    assert reasons()["NonZero"] == "the catalogue has no kernel type for NonZero"
    assert upload(farm, ann, clip, numbers={"w": (0.0,)}) == model_id
    assert fusions.UPLOAD_AGAIN not in str(reasons())


def tflite(farm, by, **read):
    """A convolution that ends with ReLU, as a .tflite file has it: channels last, one operator."""
    options = {"padding": 0, "stride_w": 1, "stride_h": 1, "activation": 1, "dilation_w": 1, "dilation_h": 1}
    node = {"op": "CONV_2D", "name": "", "inputs": ["x", "w", "b"], "outputs": ["y"], "attributes": {}}
    shapes = {"x": ("input", 1, 8, 8, 4), "w": ("weight", 6, 3, 3, 4), "b": ("weight", 6), "y": ("output", 1, 8, 8, 6)}
    model = models.NewModel(
        name="t",
        sha256="b" * 64,
        size_bytes=100,
        format="tflite",
        opset=3,
        dims={},
        inputs=(),
        graph={
            "nodes": [node | {"attributes": options if read else {}}],
            "values": {name: value(*one) for name, one in shapes.items()},
            **read,
        },
        flops=None,
        parameters=1,
    )
    with farm.transaction() as tx:
        return models.add(tx, model, by=by).id


def test_the_operators_of_a_tflite_upload_are_named(farm, ann, agent):
    model_id = tflite(farm, ann)
    [[part]] = [kernel.parts for kernel in kernels(farm, model_id, ann).kernels]
    assert (part.type, part.reason.endswith(fusions.UPLOAD_AGAIN)) == (None, True)
    assert tflite(farm, ann, numbers={}) == model_id
    report(farm, row(times=(1, 0.2, 1.2)))
    [[part]] = [kernel.parts for kernel in kernels(farm, model_id, ann).kernels]
    assert part.config == {"hw": 8, "cin": 4, "cout": 6, "k": 3, "s": 1, "act": "relu", "batch": 1}
    assert (part.type, part.operators, part.names) == ("conv-bn-act", ["Conv", "Relu"], ["CONV_2D"])


def test_a_generated_model_by_its_name(farm, ann, agent):
    found = kernels(farm, "resnet18", ann)
    assert len(found.kernels) == 31
    assert found.unknown == []
    assert farm.submit(ann, JobRequest.model_validate({"workloads": [{"kind": "model", "name": "resnet18"}]}))


def test_the_model_of_another_account_is_nobody_s(farm, ann, agent):
    model_id = upload(farm, ann)
    bob = farm.account("bob")
    for name in (model_id, "m_nothing", "alexnet"):
        with pytest.raises(NotFound):
            kernels(farm, name, bob)
