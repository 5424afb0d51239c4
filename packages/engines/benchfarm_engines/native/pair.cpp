// The visit of a pair: both workloads in one process, timed in turn, by the rules of benchfarm_engines.pair_visit.
#include <algorithm>
#include <cmath>
#include <memory>

#include "failures.h"
#include "visit.h"

namespace benchfarm {
namespace {

constexpr int64_t rounds_max = 8, rounds_min = 3, round_pairs_min = 4;

double ms(int64_t ns) { return static_cast<double>(ns) / 1e6; }

struct Side {
    const Visit& visit;
    std::string precision;
    Options options;
    References references;
    BlockSamples blocks;
    int64_t open_ns = 0, first_ns = 0;
    double distance = 0;
    int64_t fastest_ns = 0;
    std::unique_ptr<Session> session;

    void write(JsonText& line) const {
        blocks.write(line);
        line.field("open_ms", ms(open_ns)).field("first_ms", ms(first_ns)).field("gate_relative_l2", distance);
    }

    void check() { distance = std::max(distance, check_session(*session, visit, references)); }

    // One timed block; its time in ns.
    int64_t block(const Witness& witness) {
        const Reading before = witness.read();
        const int64_t ns = block_ns([this] { session->run(); }, blocks.iterations);
        blocks.add(ns, before, witness.read());
        return ns;
    }
};

class Pair {
public:
    Pair(const Visit& visit, const LaunchRequest& request, Bench& bench)
        : request_(request), protocol_(request.protocol), bench_(bench),
          a_{visit, request.precision, bench.options, load_references(visit), {}, 0, 0, 0, 0, nullptr},
          b_{visit.beside->visit, visit.beside->precision.value_or(request.precision), options_of(*visit.beside, bench),
             load_references(visit.beside->visit), {}, 0, 0, 0, 0, nullptr},
          opens_first_(visit.beside->opens_first) {}

    void measure(JsonText& line) {
        const int64_t canary_before = bench_.canaries.spent_ns;
        while (wants_round()) {
            round((rounds_.size() % 2 == 1) != opens_first_);
            a_.session.reset();
            b_.session.reset();
        }
        bench_.canaries.sample(canaries_, pairs());
        bench_.shares.timed_ns += timed_ns();
        a_.write(line);
        write_canaries(line, canaries_);
        line.field("canary_ms", ms(bench_.canaries.spent_ns - canary_before));
        line.key("beside").open('{');
        b_.write(line);
        line.key("rounds").items(rounds_);
        line.field("threads", request_.threads).close('}');
    }

private:
    static Options options_of(const Beside& beside, const Bench& bench) {
        if (!beside.options) return bench.options;
        try {
            return read_options(*beside.options);
        } catch (const BadRequest& error) {
            throw VisitFailure("engine_error", "the other side: " + error.detail);
        }
    }

    int64_t pairs() const { return static_cast<int64_t>(a_.blocks.blocks_ns.size()); }
    int64_t timed_ns() const { return a_.blocks.timed_ns() + b_.blocks.timed_ns(); }
    int64_t pairs_min() const { return std::max(round_pairs_min, (protocol_.blocks_min + rounds_max - 1) / rounds_max); }

    bool wants_round() const {
        const auto rounds = static_cast<int64_t>(rounds_.size());
        if (rounds >= rounds_max || pairs() >= protocol_.blocks_max) return false;
        return rounds < rounds_min || pairs() < protocol_.blocks_min || timed_ns() < protocol_.visit_ms * 1'000'000;
    }

    // Rounds are each other's mirror images: in whatever is done to one side before the other (opening, for the memory
    // that is handed out first may be the better one, checking, warming up, timing) they take turns.
    void round(bool b_first) {
        Side& first = b_first ? b_ : a_;
        Side& second = b_first ? a_ : b_;
        for (Side* side : {&first, &second}) open(*side);
        for (Side* side : {&first, &second}) side->check();
        bench_.witness.refresh();
        if (!bench_.shares.first_block_unix_s) bench_.shares.first_block_unix_s = unix_s();
        time_round(first, second);
        for (Side* side : {&first, &second}) side->check();
    }

    void open(Side& side) {
        refuse_other_format(side.visit);
        if (side.precision != "fp32" && side.precision != "int8")
            throw VisitFailure("precision_not_obeyed", "ncnn has no " + side.precision.substr(0, 20) + " on this host");
        const NamedArrays inputs = artifact_inputs(side.visit.inputs, side.visit.edges);
        const int64_t begun = now_ns();
        const Opening opening{side.visit.artifact, side.precision, request_.threads, side.options, true};
        side.session = std::make_unique<Session>(opening, inputs);
        const int64_t ready = now_ns();
        bench_.shares.open_ns += ready - begun;
        refuse_other_threads(*side.session, request_.threads);
        side.session->run();
        const int64_t ran = now_ns();
        if (side.open_ns != 0) return;
        side.open_ns = ready - begun;
        side.first_ns = ran - ready;
        if (side.precision != request_.precision || !(side.options == bench_.options))
            refuse_other_precision(side.session->computes_in(), side.precision);
    }

    void warm(Side& side) {
        const auto [runs, fastest] = warm_up([&] { side.session->run(); }, protocol_);
        side.blocks.warmup_runs += runs;
        side.fastest_ns = fastest;
    }

    // Both blocks last `block_min_us` at least, and about as long as each other.
    void fix_lengths() {
        const int64_t block = std::max({protocol_.block_min_us * 1000, a_.fastest_ns, b_.fastest_ns});
        for (Side* side : {&a_, &b_}) {
            const auto even = std::nearbyint(static_cast<double>(block) / static_cast<double>(side->fastest_ns));
            side->blocks.iterations =
                std::max(iterations_for(side->fastest_ns, protocol_.block_min_us), static_cast<int64_t>(even));
        }
    }

    void time_round(Side& first, Side& second) {
        warm(first);
        warm(second);
        if (rounds_.empty()) fix_lengths();
        const int64_t before = pairs();
        int64_t round_ns = protocol_.visit_ms * 1'000'000 / rounds_max;
        while (pairs() < before + pairs_min() || round_ns > 0) {
            bench_.canaries.sample(canaries_, pairs());
            round_ns -= stretch(first, second, before, round_ns);
            if (pairs() >= protocol_.blocks_max) break;
        }
        rounds_.push_back(pairs() - before);
    }

    // One untimed run: back into the caches after the other side.
    static void settle(Side& side) {
        if (side.fastest_ns < rewarm_below_ns) side.session->run();
    }

    // Pairs without a canary between them, to the end of the round at most; returns their time in ns.
    int64_t stretch(Side& begins, Side& follows, int64_t round_begin, int64_t round_ns) {
        bench_.witness.refresh();
        const int64_t left = protocol_.canary_every_ms * 1'000'000;
        int64_t spent = 0;
        const auto is_even = [&] { return (pairs() - round_begin) % 2 == 0; };
        Side& next = is_even() ? begins : follows;
        settle(next);  // untimed: as many runs as any other first block has of its side before it
        block_ns([&] { next.session->run(); }, next.blocks.iterations);
        while (spent < left && pairs() < protocol_.blocks_max) {
            const bool even = is_even();
            Side& first = even ? begins : follows;
            Side& second = even ? follows : begins;
            spent += first.block(bench_.witness);
            settle(second);
            spent += second.block(bench_.witness);
            if (spent >= round_ns && pairs() >= round_begin + pairs_min()) break;
        }
        return spent;
    }

    const LaunchRequest& request_;
    const Protocol& protocol_;
    Bench& bench_;
    Side a_, b_;
    bool opens_first_;
    std::vector<int64_t> rounds_;
    CanaryList canaries_;
};

}  // namespace

void measure_pair(const Visit& visit, const LaunchRequest& request, Bench& bench, JsonText& line) {
    Pair(visit, request, bench).measure(line);
}

}  // namespace benchfarm
