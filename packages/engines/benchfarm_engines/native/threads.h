// The threads of this process as the kernel lists them, and what they waited for.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace benchfarm {

std::set<int> thread_ids();

// Processor time that each living thread has used, in ns.
std::map<int, int64_t> cpu_ns_by_thread();

// How many threads may run on other cores than these.
int threads_outside(const std::vector<int>& cores);

// Totals since the threads began: run-queue delay in ns, involuntary context switches.
struct Reading {
    int64_t delay_ns = 0, switches = 0;
};

// Reads the totals of all threads; what lies between two readings happened to the block between them. Two readings can
// be compared only when `refresh` was not called between them.
class Witness {
public:
    // Throws LaunchFailure (engine_unavailable) where the kernel keeps no run-queue statistics.
    Witness();
    ~Witness();
    Witness(const Witness&) = delete;
    Witness& operator=(const Witness&) = delete;

    // Takes in threads that began since and lets go of those that ended.
    void refresh();
    Reading read() const;
    // Median time of one reading.
    int64_t cost_ns() const;

private:
    std::map<int, int> files_;
};

// Monotonic time.
int64_t now_ns();

// Since the epoch.
double unix_s();

}  // namespace benchfarm
