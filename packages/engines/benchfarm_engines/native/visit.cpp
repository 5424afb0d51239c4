#include "visit.h"

#include <algorithm>
#include <cstdio>
#include <new>

#include "failures.h"
#include "time_limit.h"

namespace benchfarm {
namespace {

double ms(int64_t ns) { return static_cast<double>(ns) / 1e6; }

void measure_time(const Visit& visit, const LaunchRequest& request, Bench& bench, JsonText& line) {
    refuse_other_format(visit);
    const References references = load_references(visit);
    const NamedArrays inputs = artifact_inputs(visit.inputs, visit.edges);
    const int64_t begun = now_ns();
    Session session({visit.artifact, request.precision, request.threads, bench.options}, inputs);
    const int64_t opened = now_ns();
    refuse_other_threads(session, request.threads);
    session.run();
    const int64_t ran = now_ns();
    bench.shares.open_ns += opened - begun;
    double distance = check_session(session, visit, references);
    const int64_t canary_before = bench.canaries.spent_ns;
    bench.witness.refresh();
    if (!bench.shares.first_block_unix_s) bench.shares.first_block_unix_s = unix_s();
    CanaryList canaries;
    const BlockSamples samples =
        time_blocks([&] { session.run(); }, request.protocol, bench.witness, bench.canaries, canaries);
    bench.shares.timed_ns += samples.timed_ns();
    const int64_t canary_ns = bench.canaries.spent_ns - canary_before;
    distance = std::max(distance, check_session(session, visit, references));  // what was timed, not the first run alone
    samples.write(line);
    write_canaries(line, canaries);
    line.field("canary_ms", ms(canary_ns));
    line.field("open_ms", ms(opened - begun)).field("first_ms", ms(ran - opened));
    line.field("gate_relative_l2", distance);
    if (request.asks_precision) line.field("effective_precision", session.computes_in());
}

void measure(const Visit& visit, const LaunchRequest& request, Bench& bench, JsonText& line) {
    if (visit.beside) return measure_pair(visit, request, bench, line);
    if (!visit.site_visits.empty() || request.protocol.purpose == "profile") {
        refuse_other_format(visit);
        throw VisitFailure("unsupported_operator",
                           "profile_unavailable: ncnn does not tell the time of single operators", "profile");
    }
    if (request.protocol.purpose == "memory") return measure_memory(visit, request, bench, line);
    measure_time(visit, request, bench, line);
}

std::string failed(const std::string& code, const std::string& detail, const std::string& subject = "") {
    JsonText line;
    line.open('{').field("outcome", "failed").field("code", code).field("detail", detail).field("subject", subject);
    return line.close('}').text();
}

}  // namespace

std::string run_visit(const Visit& visit, const LaunchRequest& request, Bench& bench) {
    try {
        const TimeLimit limit(request.protocol.visit_timeout_s);
        JsonText line;
        line.open('{').field("outcome", "ok");
        measure(visit, request, bench, line);
        return line.close('}').text();
    } catch (const VisitFailure& failure) {
        return failed(failure.code, failure.detail, failure.subject);
    } catch (const TimedOut&) {
        char seconds[40];
        std::snprintf(seconds, sizeof seconds, "longer than %g s", request.protocol.visit_timeout_s);
        return failed("timeout", seconds);
    } catch (const std::bad_alloc&) {
        return failed("out_of_memory", "more memory than a runner may use");
    }
}

References load_references(const Visit& visit) {
    References references;
    for (const Gate& gate : visit.gates) references.push_back(load_reference(gate.reference));
    return references;
}

double check_session(const Session& session, const Visit& visit, const References& references) {
    std::vector<Array> outputs = session.outputs();
    to_workload(outputs, visit.edges, references[0]);
    const double own = check_outputs(outputs, references[0], visit.gates[0].max_relative_l2);
    for (size_t number = 1; number < references.size(); ++number)
        check_beside_twin(outputs, references[0], references[number], visit.gates[number].max_relative_l2);
    return own;
}

void refuse_other_format(const Visit& visit) {
    if (visit.format != "ncnn")
        throw VisitFailure("conversion_failed", "ncnn does not read " + visit.format.substr(0, 40));
}

void refuse_other_threads(const Session& session, int threads) {
    if (session.threads() != threads)
        throw VisitFailure("threads_not_obeyed",
                           "the engine took " + std::to_string(session.threads()) + " threads");
}

void refuse_other_precision(const std::string& seen, const std::string& asked) {
    if (seen != asked && !(asked == "int8" && seen == "fp32"))
        throw VisitFailure("precision_not_obeyed", "asked for " + asked + ", the engine computes in " + seen);
}

}  // namespace benchfarm
