#include "blocks.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace benchfarm {
namespace {

constexpr double delay_share = 0.02;
constexpr int64_t delay_floor_ns = 20'000;
constexpr int64_t undisturbed_ns = 20'000;
constexpr int64_t wall_share = 4;
constexpr double block_margin = 1.05;
constexpr int canary_runs = 3, clock_runs = 1, tries_per_run = 3;
constexpr const char* clock_canary = "sgemm";
// Blocks between two points last at least as long as so many runs of the product, of which two stand at each: where it
// is slow, points would else take longer than the blocks.
constexpr int64_t clock_runs_per_row = 12;

}  // namespace

void Canaries::sample(CanaryList& samples, int64_t block_index) {
    const int64_t begun = now_ns();
    for (const auto& [name, run] : runs_) take(name, run, canary_runs, samples, block_index);
    spent_ns += now_ns() - begun;
}

void Canaries::clock(CanaryList& samples, int64_t block_index) {
    const int64_t begun = now_ns();
    for (const auto& [name, run] : runs_)
        if (name == clock_canary) take(name, run, clock_runs, samples, block_index);
    spent_ns += now_ns() - begun;
}

void Canaries::take(const std::string& name, const Run& run, int runs, CanaryList& samples, int64_t block_index) const {
    run();  // untimed: the measured work has pushed the canary out of the caches
    auto taken = std::find_if(samples.begin(), samples.end(), [&](const auto& one) { return one.name == name; });
    if (taken == samples.end()) taken = samples.insert(samples.end(), CanarySamples{name, {}});
    for (int number = 0; number < runs; ++number) {
        const int64_t ns = undisturbed(run);
        if (ns > 0) taken->runs.emplace_back(block_index, ns);
    }
}

// What decides is the witness alone, never the time. 0 when every try was disturbed.
int64_t Canaries::undisturbed(const Run& run) const {
    for (int number = 0; number < tries_per_run; ++number) {
        const Reading before = witness_.read();
        const int64_t begun = now_ns();
        run();
        const int64_t elapsed = now_ns() - begun;
        const Reading after = witness_.read();
        if (after.switches == before.switches && after.delay_ns - before.delay_ns <= undisturbed_ns)
            return std::max<int64_t>(1, elapsed);
    }
    return 0;
}

int64_t BlockSamples::add(int64_t block, const Reading& before, const Reading& after) {
    const int64_t delay = std::max<int64_t>(0, after.delay_ns - before.delay_ns);
    const int64_t pushed = std::max<int64_t>(0, after.switches - before.switches);
    blocks_ns.push_back(block);
    delays_ns.push_back(delay);
    switches.push_back(pushed);
    const auto allowed = std::max(static_cast<double>(delay_floor_ns), delay_share * static_cast<double>(block));
    return pushed == 0 && static_cast<double>(delay) <= allowed ? block : 0;
}

int64_t BlockSamples::timed_ns() const { return std::accumulate(blocks_ns.begin(), blocks_ns.end(), int64_t{0}); }

void BlockSamples::write(JsonText& line) const {
    line.field("iterations", iterations);
    line.key("blocks_ns").items(blocks_ns);
    line.key("delays_ns").items(delays_ns);
    line.key("switches").items(switches);
    line.field("warmup_runs", warmup_runs);
    line.field("timed_ms", static_cast<double>(timed_ns()) / 1e6);
}

void write_canaries(JsonText& line, const CanaryList& canaries) {
    line.key("canaries").open('{');
    for (const CanarySamples& canary : canaries) {
        line.key(canary.name).open('[');
        for (const auto& [block, ns] : canary.runs) line.open('[').value(block).value(ns).close(']');
        line.close(']');
    }
    line.close('}');
}

int64_t iterations_for(int64_t fastest_ns, int64_t block_min_us) {
    if (fastest_ns >= block_min_us * 1000) return 1;
    return static_cast<int64_t>(
        std::ceil(static_cast<double>(block_min_us * 1000) * block_margin / static_cast<double>(fastest_ns)));
}

int64_t row_ns(const CanaryList& taken, const Protocol& protocol) {
    const int64_t every = protocol.clock_every_ms * 1'000'000;
    for (const CanarySamples& canary : taken)
        if (canary.name == clock_canary && !canary.runs.empty())
            return std::max(every, clock_runs_per_row * canary.runs.back().second);
    return every;
}

bool enough_blocks(int64_t blocks, int64_t clean_ns, int64_t wall_ns, const Protocol& protocol) {
    const int64_t target = protocol.visit_ms * 1'000'000;
    if (blocks >= protocol.blocks_max) return true;
    return blocks >= protocol.blocks_min && (clean_ns >= target || wall_ns >= wall_share * target);
}

}  // namespace benchfarm
