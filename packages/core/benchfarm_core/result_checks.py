"""What a result's parts must have to do with each other before anything is derived from them."""

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import LaunchSamples, MeasurementResult
from benchfarm_core.profilers import InSituBy
from benchfarm_core.protocols import Protocol, is_comparison, purpose_of


def check_result(result: MeasurementResult, protocol: Protocol, in_situ_by: InSituBy | None = None) -> None:
    """Refuse results whose parts contradict each other, or that are of another protocol. Raises InvalidRequest.

    in_situ_by: how it had to be timed in situ, None where it was to be timed alone.
    """
    if (result.outcome == "ok") != (result.failure is None) or (result.outcome == "ok") != bool(result.launches):
        raise _invalid(result, "an ok outcome has launches and no failure code; a failed one the reverse")
    numbers = [launch.launch_no for launch in result.launches]
    if len(set(numbers)) != len(numbers):
        raise _invalid(result, "a launch number appears twice")
    for launch in result.launches:
        if len(set(launch.lengths)) != 1:
            raise _invalid(result, "blocks_ns, delays_ns and switches differ in length")
        if launch.has_stray_canaries:
            raise _invalid(result, "a canary ran behind more blocks than there are")
        if launch.beside is not None and sum(launch.beside.rounds) != len(launch.blocks_ns):
            raise _invalid(result, "the rounds are not all pairs")
        if (what := _of_another_protocol(launch, protocol, in_situ_by)) is not None:
            raise _invalid(result, what)


def _of_another_protocol(launch: LaunchSamples, protocol: Protocol, in_situ_by: InSituBy | None) -> str | None:
    """What a launch brings that its protocol or timing does not look at, or lacks; None where they agree."""
    purpose, two_sides = purpose_of(protocol), is_comparison(protocol) or in_situ_by == "difference"
    has = {"memory": launch.memory is not None, "profile": bool(launch.nodes), "two sides": launch.beside is not None}
    needs = {"memory": purpose == "memory", "profile": purpose == "profile", "two sides": two_sides}
    strays = [name for name, there in has.items() if there != needs[name]]
    return f"a launch of {protocol.name} and what it says of {strays[0]} do not go together" if strays else None


def _invalid(result: MeasurementResult, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"result of measurement {result.measurement_id}: {reason}", code="result_invalid", field="results"
    )
