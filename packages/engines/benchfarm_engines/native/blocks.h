// The timing loop and its canaries, by the rules of benchfarm_engines.blocks and benchfarm_engines.canary.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "json.h"
#include "request.h"
#include "threads.h"

namespace benchfarm {

// Longer blocks, and longer runs of a pair, are not warmed up again: they do not feel what was displaced.
constexpr int64_t rewarm_below_ns = 5'000'000;

// One canary's runs: pairs of the number of blocks timed before it and ns of one undisturbed run.
struct CanarySamples {
    std::string name;
    std::vector<std::pair<int64_t, int64_t>> runs;
};
using CanaryList = std::vector<CanarySamples>;

// Fixed work that runs beside the measured one and tells how fast the machine is just then.
class Canaries {
public:
    using Run = std::function<void()>;

    Canaries(std::vector<std::pair<std::string, Run>> runs, const Witness& witness)
        : runs_(std::move(runs)), witness_(witness) {}

    // Adds three runs of each canary, fewer where they were disturbed to the last try.
    void sample(CanaryList& samples, int64_t block_index);

    // Adds a clock point, one run of the product alone, or none where it was disturbed to the last try: cheap enough to
    // stand often between blocks, it follows the processor's clock.
    void clock(CanaryList& samples, int64_t block_index);

    int64_t spent_ns = 0;

private:
    void take(const std::string& name, const Run& run, int runs, CanaryList& samples, int64_t block_index) const;
    int64_t undisturbed(const Run& run) const;

    std::vector<std::pair<std::string, Run>> runs_;
    const Witness& witness_;
};

// What one visit saw; lists run over the timed blocks.
struct BlockSamples {
    int64_t iterations = 0, warmup_runs = 0;
    std::vector<int64_t> blocks_ns, delays_ns, switches;

    // Takes in a block; returns its time in ns when it was undisturbed, else 0.
    int64_t add(int64_t block_ns, const Reading& before, const Reading& after);
    int64_t timed_ns() const;
    // The lists and totals as a `done` line carries them.
    void write(JsonText& line) const;
};

void write_canaries(JsonText& line, const CanaryList& canaries);

// Runs until the protocol's minimum of runs and time; returns the number and the fastest run in ns.
template <class Run>
std::pair<int64_t, int64_t> warm_up(Run&& run, const Protocol& protocol) {
    int64_t fastest = 0, runs = 0;
    int64_t now = now_ns();
    const int64_t enough = now + protocol.warmup_min_ms * 1'000'000;
    while (runs < protocol.warmup_min_runs || now < enough) {
        const int64_t started = now_ns();
        run();
        now = now_ns();
        if (runs == 0 || now - started < fastest) fastest = now - started;
        ++runs;
    }
    return {runs, fastest > 0 ? fastest : 1};
}

template <class Run>
int64_t block_ns(Run&& run, int64_t iterations) {
    const int64_t begun = now_ns();
    for (int64_t number = 0; number < iterations; ++number) run();
    return now_ns() - begun;
}

// Runs per block, so that a block lasts at least `block_min_us`: one, where a single run does.
int64_t iterations_for(int64_t fastest_ns, int64_t block_min_us);

// Whether a visit has blocks and undisturbed time enough, or has taken too long among noisy neighbours.
bool enough_blocks(int64_t blocks, int64_t clean_ns, int64_t wall_ns, const Protocol& protocol);

// How long blocks run until the next clock point: where the product is slow, as long as to keep its share.
int64_t row_ns(const CanaryList& taken, const Protocol& protocol);

// Measures one opened workload. Times in the answer are totals of `iterations` runs.
template <class Run>
BlockSamples time_blocks(Run&& run, const Protocol& protocol, Witness& witness, Canaries& canaries, CanaryList& taken) {
    BlockSamples samples;
    int64_t fastest = 0, clean = 0, stretches = 0;
    std::tie(samples.warmup_runs, fastest) = warm_up(run, protocol);
    samples.iterations = iterations_for(fastest, protocol.block_min_us);
    const bool rewarm = fastest * samples.iterations < rewarm_below_ns;
    const bool with_clock = protocol.clock_every_ms > 0;
    const int64_t begun = now_ns();
    const auto count = [&] { return static_cast<int64_t>(samples.blocks_ns.size()); };
    for (; !enough_blocks(count(), clean, now_ns() - begun, protocol); ++stretches) {
        canaries.sample(taken, count());
        if (rewarm) block_ns(run, samples.iterations);  // untimed: back into the caches after the canary
        witness.refresh();
        int64_t left = protocol.canary_every_ms * 1'000'000, until_clock = row_ns(taken, protocol);
        Reading before = witness.read();
        while (left > 0) {
            const int64_t block = block_ns(run, samples.iterations);
            const Reading after = witness.read();
            clean += samples.add(block, before, after);
            before = after;
            left -= block;
            until_clock -= block;
            const bool target = clean >= protocol.visit_ms * 1'000'000;
            if (count() >= (target ? protocol.blocks_min : protocol.blocks_max)) break;
            if (!with_clock || until_clock > 0 || left <= 0) continue;
            canaries.clock(taken, count());
            if (rewarm) run();  // untimed, and once: the product displaces less than all canaries do
            until_clock = row_ns(taken, protocol);
            before = witness.read();
        }
    }
    // After a single stretch the next visit's canary is as near, and costs nothing more. Of the clock it tells nothing:
    // that may have changed by then.
    if (stretches > 1) {
        canaries.sample(taken, count());
    } else if (with_clock) {
        canaries.clock(taken, count());
    }
    return samples;
}

}  // namespace benchfarm
