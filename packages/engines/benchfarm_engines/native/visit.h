// One visit: open a workload, check its result, time it, close it. Failures come out typed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "blocks.h"
#include "request.h"
#include "session.h"
#include "threads.h"

namespace benchfarm {

// Where the time of a launch went.
struct Shares {
    int64_t timed_ns = 0, open_ns = 0;
    std::optional<double> first_block_unix_s;
};

// What all visits of a launch share.
struct Bench {
    Options options;
    Witness& witness;
    Canaries& canaries;
    Shares shares;
};

using References = std::vector<std::vector<Array>>;

// The fields of a `done` line behind its number; never throws for a workload's fault.
std::string run_visit(const Visit& visit, const LaunchRequest& request, Bench& bench);

References load_references(const Visit& visit);

// The latest run's outputs against every reference; the distance from the workload's own. Throws VisitFailure.
double check_session(const Session& session, const Visit& visit, const References& references);

// Throws VisitFailure (conversion_failed).
void refuse_other_format(const Visit& visit);

// Throws VisitFailure (threads_not_obeyed).
void refuse_other_threads(const Session& session, int threads);

// For a workload that is itself asked what it computes in. ncnn answers fp32 for any 8-bit graph without a product.
void refuse_other_precision(const std::string& seen, const std::string& asked);

// Both write the fields of a `done` line. Throw VisitFailure, TimedOut, std::bad_alloc.
void measure_pair(const Visit& visit, const LaunchRequest& request, Bench& bench, JsonText& line);
void measure_memory(const Visit& visit, const LaunchRequest& request, Bench& bench, JsonText& line);

}  // namespace benchfarm
