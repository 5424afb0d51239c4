// A small OpenMP runtime: both the calls that g++ compiles a parallel loop to and those of clang.
//
// One pool of threads for all nets. Between two loops its threads wait spinning for 0.3 ms, as the engine's Python
// package is set up to, and sleep then; a team's size never changes within a loop.
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>

namespace {

constexpr int team_max = 255;
constexpr uint32_t team_mask = 0xff;
constexpr size_t stack_bytes = size_t{1} << 20;

struct Job {
    void (*run)(void*) = nullptr;
    void* data = nullptr;
};

std::atomic<int64_t> spin_ns{300'000};
std::atomic<uint32_t> ticket{0};  // counts loops in its upper bits; the lower ones are the team's size
std::atomic<uint32_t> working{0};
std::atomic<int> sleepers{0};
Job job;
int workers = 0;
uint32_t seen_at_start = 0;  // the ticket before the loop that new threads are started for
thread_local int own_number = 0, team_size = 1, wanted_size = 0;
thread_local bool inside = false;

int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Until the word is another than `seen`; returns it.
uint32_t await_change(std::atomic<uint32_t>& word, uint32_t seen) {
    const int64_t until_ns = now_ns() + spin_ns.load(std::memory_order_relaxed);
    do {
        for (int turn = 0; turn < 64; ++turn) {
            const uint32_t found = word.load(std::memory_order_acquire);
            if (found != seen) return found;
            pause_briefly();
        }
    } while (now_ns() < until_ns);
    sleepers.fetch_add(1);
    uint32_t found;
    while ((found = word.load()) == seen) futex_wait(word, seen);
    sleepers.fetch_sub(1);
    return found;
}

void announce(std::atomic<uint32_t>& word) {
    if (sleepers.load() > 0) futex_wake(word);
}

void* work(void* number) {
    own_number = static_cast<int>(reinterpret_cast<intptr_t>(number));
    inside = true;
    uint32_t seen = seen_at_start;
    while (true) {
        seen = await_change(ticket, seen);
        team_size = static_cast<int>(seen & team_mask);
        if (own_number >= team_size) continue;
        job.run(job.data);
        if (working.fetch_sub(1) == 1) announce(working);
    }
    return nullptr;
}

// Starts threads up to a team's size; those that cannot be had make the team smaller.
int with_workers(int wanted) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    seen_at_start = ticket.load();
    while (workers < wanted - 1) {
        pthread_t thread;
        const auto number = static_cast<intptr_t>(workers + 1);
        if (pthread_create(&thread, &attributes, work, reinterpret_cast<void*>(number)) != 0) break;
        pthread_detach(thread);
        ++workers;
    }
    pthread_attr_destroy(&attributes);
    return std::min(wanted, workers + 1);
}

void run_alone(void (*run)(void*), void* data) {
    const int number = own_number, size = team_size;
    own_number = 0;
    team_size = 1;
    run(data);
    own_number = number;
    team_size = size;
}

void run_team(void (*run)(void*), void* data, int wanted) {
    if (inside || wanted <= 1) return run_alone(run, data);
    wanted = std::min(wanted, team_max);
    if (wanted > workers + 1) wanted = with_workers(wanted);
    if (wanted <= 1) return run_alone(run, data);
    job = {run, data};
    working.store(static_cast<uint32_t>(wanted - 1), std::memory_order_relaxed);
    const uint32_t next = ((ticket.load() | team_mask) + 1) | static_cast<uint32_t>(wanted);
    ticket.store(next);
    announce(ticket);
    own_number = 0;
    team_size = wanted;
    inside = true;
    run(data);
    inside = false;
    team_size = 1;
    for (uint32_t left = working.load(std::memory_order_acquire); left != 0;) left = await_change(working, left);
}

}  // namespace

namespace benchfarm {

void set_pool_spin_us(int microseconds) { spin_ns.store(int64_t{microseconds} * 1000); }

void start_pool(int threads) {
    run_team([](void*) {}, nullptr, threads);
}

}  // namespace benchfarm

extern "C" {

int omp_get_max_threads() { return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))); }
int omp_get_dynamic() { return 0; }
void omp_set_dynamic(int) {}
void omp_set_num_threads(int) {}  // every loop names its own number
int omp_get_num_threads() { return team_size; }
int omp_get_thread_num() { return own_number; }
int kmp_get_blocktime() { return 0; }
void kmp_set_blocktime(int) {}

void GOMP_parallel(void (*run)(void*), void* data, unsigned wanted, unsigned) {
    run_team(run, data, wanted == 0 ? 1 : static_cast<int>(wanted));
}

// --- clang's calls: the body takes its shared variables as single arguments, of which it may have up to 32

struct Outlined {
    void (*body)(int32_t*, int32_t*, ...);
    void* arguments[32];
};

static void run_outlined(void* data) {
    const auto* outlined = static_cast<Outlined*>(data);
    void* const* a = outlined->arguments;
    int32_t number = own_number, zero = 0;
    using Body = void (*)(int32_t*, int32_t*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                          void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                          void*, void*, void*, void*, void*, void*, void*, void*, void*);
    // The caller removes its arguments in the conventions of both machines, so a body that takes fewer is fine.
    reinterpret_cast<Body>(outlined->body)(
        &number, &zero, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14],
        a[15], a[16], a[17], a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29], a[30],
        a[31]);
}

int32_t __kmpc_global_thread_num(void*) { return own_number; }
void __kmpc_push_num_threads(void*, int32_t, int32_t wanted) { wanted_size = wanted; }

void __kmpc_fork_call(void*, int32_t count, void (*body)(int32_t*, int32_t*, ...), ...) {
    Outlined outlined{body, {}};
    if (count > 32) std::abort();
    va_list given;
    va_start(given, body);
    for (int32_t number = 0; number < count && number < 32; ++number) outlined.arguments[number] = va_arg(given, void*);
    va_end(given);
    const int wanted = wanted_size > 0 ? wanted_size : 1;
    wanted_size = 0;
    run_team(run_outlined, &outlined, wanted);
}

}  // extern "C"

// A thread's share of a loop from *low to *high, both included: as even as it can be, the larger shares first.
template <class Whole>
static void share(int32_t* last, Whole* low, Whole* high, Whole* stride, int64_t step) {
    const int64_t begin = static_cast<int64_t>(*low), end = static_cast<int64_t>(*high);
    const int64_t turns = step > 0 ? (end - begin + step) / step : (begin - end - step) / -step;
    const int64_t size = turns > 0 ? turns / team_size : 0, larger = turns > 0 ? turns % team_size : 0;
    const int64_t first = own_number * size + std::min<int64_t>(own_number, larger);
    const int64_t own = size + (own_number < larger ? 1 : 0);
    *low = static_cast<Whole>(begin + first * step);
    *high = static_cast<Whole>(begin + (first + own - 1) * step);
    *stride = static_cast<Whole>(turns * step);
    if (last != nullptr) *last = own > 0 && first + own == turns;
}

extern "C" {

void __kmpc_for_static_init_4(void*, int32_t, int32_t, int32_t* last, int32_t* low, int32_t* high, int32_t* stride,
                              int32_t step, int32_t) {
    share(last, low, high, stride, step);
}

void __kmpc_for_static_init_4u(void*, int32_t, int32_t, int32_t* last, uint32_t* low, uint32_t* high, uint32_t* stride,
                               int32_t step, int32_t) {
    share(last, low, high, stride, step);
}

void __kmpc_for_static_init_8(void*, int32_t, int32_t, int32_t* last, int64_t* low, int64_t* high, int64_t* stride,
                              int64_t step, int64_t) {
    share(last, low, high, stride, step);
}

void __kmpc_for_static_init_8u(void*, int32_t, int32_t, int32_t* last, uint64_t* low, uint64_t* high, uint64_t* stride,
                               int64_t step, int64_t) {
    share(last, low, high, stride, step);
}

void __kmpc_for_static_fini(void*, int32_t) {}

}  // extern "C"
