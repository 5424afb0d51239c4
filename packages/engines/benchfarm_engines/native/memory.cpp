// The visit of the protocol `memory`, by the rules of benchfarm_engines.memory_visit: sizes by the kernel's own count.
#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>

#include "failures.h"
#include "visit.h"

namespace benchfarm {
namespace {

constexpr int runs = 5;  // inferences after the first: by then engines have grown their arenas

// Lines such as "Pss:   1234 kB" as bytes by name.
std::map<std::string, int64_t> sizes(const char* path) {
    std::map<std::string, int64_t> found;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string name, unit, more;
        int64_t size = 0;
        if (words >> name >> size >> unit && unit == "kB" && !(words >> more)) found[name] = size * 1024;
    }
    return found;
}

struct Usage {
    int64_t pss = 0, rss = 0, peak_rss = 0;
};

Usage usage() {
    auto rollup = sizes("/proc/self/smaps_rollup");
    if (rollup.count("Pss:") == 0) throw VisitFailure("engine_error", "the kernel does not count this process' memory");
    return {rollup["Pss:"], rollup["Rss:"], sizes("/proc/self/status")["VmHWM:"]};
}

}  // namespace

void measure_memory(const Visit& visit, const LaunchRequest& request, Bench& bench, JsonText& line) {
    refuse_other_format(visit);
    const NamedArrays inputs = artifact_inputs(visit.inputs, visit.edges);
    const Usage before = usage();
    bench.witness.refresh();
    const Reading witnessed = bench.witness.read();
    const int64_t begun = now_ns();
    Session session({visit.artifact, request.precision, request.threads, bench.options}, inputs);
    const int64_t opened = now_ns();
    session.run();
    const int64_t ran = now_ns();
    const Reading after = bench.witness.read();
    const Usage loaded = usage();
    for (int number = 0; number < runs; ++number) session.run();
    const Usage last = usage();
    refuse_other_threads(session, request.threads);
    const std::string seen = session.computes_in();
    refuse_other_precision(seen, request.precision);
    const double distance = check_session(session, visit, load_references(visit));
    BlockSamples samples;
    samples.iterations = 1;
    samples.add(ran - begun, witnessed, after);
    samples.write(line);
    write_canaries(line, {});
    line.field("canary_ms", 0.0);
    line.field("open_ms", static_cast<double>(opened - begun) / 1e6);
    line.field("first_ms", static_cast<double>(ran - opened) / 1e6);
    line.field("gate_relative_l2", distance).field("effective_precision", seen);
    const int64_t unseen = std::max<int64_t>(0, last.peak_rss - std::max(loaded.rss, last.rss));
    line.key("memory").open('{');
    line.field("base_pss_bytes", before.pss).field("loaded_pss_bytes", loaded.pss);
    line.field("peak_pss_bytes", std::max(loaded.pss, last.pss) + unseen);
    line.field("peak_rss_bytes", std::max(last.peak_rss, last.rss));
    line.field("mapped_weights_bytes", 0).close('}');  // ncnn reads its weights, it maps none
}

}  // namespace benchfarm
