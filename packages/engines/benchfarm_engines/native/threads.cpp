#include "threads.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "failures.h"

namespace benchfarm {
namespace {

constexpr int cost_readings = 51;

std::string schedstat(int thread) { return "/proc/self/task/" + std::to_string(thread) + "/schedstat"; }

// A number of a line of numbers; -1 where there is none.
int64_t number_of(int file, int place) {
    char line[96];
    const ssize_t size = pread(file, line, sizeof line - 1, 0);
    if (size <= 0) return -1;
    line[size] = '\0';
    char* at = line;
    int64_t value = -1;
    for (int number = 0; number <= place; ++number) {
        char* end = at;
        value = std::strtoll(at, &end, 10);
        if (end == at) return -1;
        at = end;
    }
    return value;
}

int64_t ns_of(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

std::set<int> thread_ids() {
    std::set<int> ids;
    DIR* folder = opendir("/proc/self/task");
    if (folder == nullptr) return ids;
    while (const dirent* entry = readdir(folder))
        if (entry->d_name[0] != '.') ids.insert(std::atoi(entry->d_name));
    closedir(folder);
    return ids;
}

std::map<int, int64_t> cpu_ns_by_thread() {
    std::map<int, int64_t> used;
    for (const int thread : thread_ids()) {
        const int file = open(schedstat(thread).c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) continue;  // the thread ended between the listing and the reading
        const int64_t ns = number_of(file, 0);
        close(file);
        if (ns >= 0) used[thread] = ns;
    }
    return used;
}

int threads_outside(const std::vector<int>& cores) {
    int outside = 0;
    cpu_set_t* set = CPU_ALLOC(4096);
    const size_t size = CPU_ALLOC_SIZE(4096);
    for (const int thread : thread_ids()) {
        CPU_ZERO_S(size, set);
        if (sched_getaffinity(thread, size, set) != 0) continue;
        for (const int core : cores) CPU_CLR_S(core, size, set);
        outside += CPU_COUNT_S(size, set) > 0;
    }
    CPU_FREE(set);
    return outside;
}

Witness::Witness() {
    refresh();
    if (files_.empty())
        throw LaunchFailure("engine_unavailable", "the kernel keeps no run-queue statistics (schedstat)");
}

Witness::~Witness() {
    for (const auto& each : files_) close(each.second);
}

void Witness::refresh() {
    const std::set<int> living = thread_ids();
    for (auto each = files_.begin(); each != files_.end();) {
        if (living.count(each->first) == 1) {
            ++each;
            continue;
        }
        close(each->second);
        each = files_.erase(each);
    }
    for (const int thread : living) {
        if (files_.count(thread) == 1) continue;
        const int file = open(schedstat(thread).c_str(), O_RDONLY | O_CLOEXEC);
        if (file >= 0) files_[thread] = file;
    }
}

Reading Witness::read() const {
    Reading found;
    for (const auto& each : files_) found.delay_ns += std::max<int64_t>(0, number_of(each.second, 1));
    struct rusage usage {};
    getrusage(RUSAGE_SELF, &usage);
    found.switches = usage.ru_nivcsw;
    return found;
}

int64_t Witness::cost_ns() const {
    std::vector<int64_t> times;
    for (int number = 0; number < cost_readings; ++number) {
        const int64_t begun = now_ns();
        read();
        times.push_back(now_ns() - begun);
    }
    std::nth_element(times.begin(), times.begin() + cost_readings / 2, times.end());
    return times[cost_readings / 2];
}

int64_t now_ns() { return ns_of(CLOCK_MONOTONIC); }

double unix_s() { return static_cast<double>(ns_of(CLOCK_REALTIME)) / 1e9; }

}  // namespace benchfarm
