// The launch request of the runner contract: read whole, checked before anything acts on it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "json.h"

namespace benchfarm {

constexpr int contract = 2;
constexpr size_t max_request_bytes = 32u << 20;

using Shape = std::vector<int64_t>;

struct Limits {
    int64_t memory_bytes = 0;
    int64_t cpu_s = 0;
    std::vector<std::string> readable, writable;
    bool network = false, strict = false;
    std::optional<int64_t> uid, gid;
};

struct Fill {
    bool normal = true;  // else whole numbers from 0 to below - 1
    uint32_t seed = 0;
    int64_t below = 1;
};

struct InputSpec {
    std::string name, dtype;
    Shape shape;
    Fill fill;
};

// How a tensor of the artifact differs from the workload's; see benchfarm_engines.edges.
struct Edge {
    std::string name, dtype;
    Shape axes, shape;
    double scale = 0;
    int64_t zero_point = 0;
};

struct Edges {
    std::vector<Edge> inputs, outputs;
};

struct Gate {
    std::string reference;
    double max_relative_l2 = 0;
};

struct Options {
    bool winograd = true, packing = true;
    bool operator==(const Options& other) const { return winograd == other.winograd && packing == other.packing; }
};

struct Beside;

struct Visit {
    int64_t number = 0;
    std::string artifact, format;
    std::vector<InputSpec> inputs;
    std::optional<Edges> edges;
    std::vector<Gate> gates;
    std::shared_ptr<Beside> beside;
    std::vector<int64_t> site_visits;  // of a carrier: the wanted sites

    std::vector<int64_t> numbers() const { return site_visits.empty() ? std::vector<int64_t>{number} : site_visits; }
};

// The b side of a pair. precision, options: where they differ from the launch's.
struct Beside {
    Visit visit;
    std::optional<std::string> precision;
    std::optional<Json> options;
    bool opens_first = false;
};

struct Protocol {
    int64_t block_min_us = 0, visit_ms = 0, blocks_min = 0, blocks_max = 0;
    int64_t warmup_min_runs = 0, warmup_min_ms = 0, canary_every_ms = 0;
    int64_t clock_every_ms = 0;  // 0: no clock points
    double visit_timeout_s = 0;
    std::string purpose;
};

struct CanaryRequest {
    int64_t sgemm_n = 0;
    uint32_t sgemm_seed = 0;
    std::string artifact;
    std::vector<InputSpec> inputs;
    std::optional<Edges> edges;
};

struct LaunchRequest {
    std::string engine, precision;
    int threads = 1;
    std::vector<int> cores;
    Json options;
    Limits limits;
    Protocol protocol;
    CanaryRequest canaries;
    std::vector<Visit> visits;
    bool asks_precision = false;  // whether each visit of one workload is to tell what it was computed in
};

// Throws BadRequest.
LaunchRequest read_launch_request(const std::string& text);

// The engine's options with their defaults. Throws BadRequest for one that it does not have, or a value outside its set.
Options read_options(const Json& given);

// The options as --probe prints them.
std::string options_schema();

}  // namespace benchfarm
