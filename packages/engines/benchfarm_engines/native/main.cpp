// The native runner: one fresh, confined process per launch. A launch request on stdin, JSON lines on stdout.
//
//   benchfarm-runner [--lock FILE] [--limit-s N]     one launch
//   benchfarm-runner --probe ENGINE                  what that engine is here
//
// It speaks the contract of `python -m benchfarm_engines.runner`, for the engine ncnn alone.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <sstream>
#include <string_view>

#include "confine.h"
#include "failures.h"
#include "pool.h"
#include "session.h"
#include "time_limit.h"
#include "visit.h"

namespace benchfarm {
namespace {

constexpr int exit_cannot_go_on = 3;
constexpr int settling_runs = 20;
constexpr char no_kernels[] = "the native runner has kernels for processors with AVX";
constexpr std::string_view no_memory =
    R"({"event":"failed","code":"engine_unavailable","detail":"more memory than a runner may use"})"
    "\n";
constexpr double busy_share = 0.1;  // a thread that used this share of the wall time computed; others only woke up

// The private way out: JSON lines, each sent at once. What a library prints goes to stderr.
class Lines {
public:
    Lines() : file_(fcntl(1, F_DUPFD_CLOEXEC, 3)) { dup2(2, 1); }

    void write(const std::string& text) const { send(text + "\n"); }

    void send(std::string_view line) const {
        for (size_t sent = 0; sent < line.size();) {
            const ssize_t part = ::write(file_, line.data() + sent, line.size() - sent);
            if (part < 0 && errno == EINTR) continue;
            if (part < 0) _exit(1);  // nobody listens any more
            sent += static_cast<size_t>(part);
        }
    }

private:
    int file_;
};

double process_age_ms() {
    std::ifstream file("/proc/self/stat");
    std::string line;
    std::getline(file, line);
    std::istringstream words(line.substr(line.rfind(')') + 1));
    std::string word;
    for (int number = 0; number < 20; ++number) words >> word;
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    const double started_s = std::strtod(word.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
    return (static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9 - started_s) * 1e3;
}

int64_t peak_rss_bytes() {
    struct rusage usage {};
    getrusage(RUSAGE_SELF, &usage);
    return int64_t{usage.ru_maxrss} * 1024;
}

std::string read_stdin() {
    std::string text;
    char part[65536];
    ssize_t size;
    while (text.size() < max_request_bytes && (size = read(0, part, sizeof part)) != 0) {
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) break;
        text.append(part, static_cast<size_t>(size));
    }
    return text;
}

std::string probe(const std::string& engine) {
    JsonText line;
    line.open('{').field("engine", engine);
    if (engine != "ncnn")
        return line.field("available", false).field("reason", "the native runner has ncnn alone").close('}').text();
    if (!processor_has_kernels())
        return line.field("available", false).field("reason", no_kernels).close('}').text();
    line.field("available", true).field("version", engine_version());
    line.key("precisions").open('[').value("fp32").value("int8").close(']');
    line.key("options").raw(options_schema());
    return line.field("reason", "").close('}').text();
}

int busy_threads(Session& session) {
    const auto before = cpu_ns_by_thread();
    const int64_t begun = now_ns();
    for (int number = 0; number < settling_runs; ++number) session.run();
    const auto wall = static_cast<double>(now_ns() - begun);
    int busy = 0;
    for (const auto& [thread, used] : cpu_ns_by_thread()) {
        const auto earlier = before.find(thread);
        busy += static_cast<double>(used - (earlier == before.end() ? 0 : earlier->second)) >= busy_share * wall;
    }
    return busy;
}

// Threads and precision as asked, seen on the canary: by the pool's count and by the kernel's.
void check_promises(Session& session, const LaunchRequest& request) {
    const std::string asked = "asked for " + std::to_string(request.threads) + " threads, ";
    if (session.threads() != request.threads)
        throw LaunchFailure("threads_not_obeyed", asked + "the engine has " + std::to_string(session.threads()));
    const int busy = busy_threads(session);
    if (busy > request.threads)
        throw LaunchFailure("threads_not_obeyed", asked + std::to_string(busy) + " are computing");
    if (const int outside = threads_outside(request.cores))
        throw LaunchFailure("threads_not_obeyed",
                            std::to_string(outside) + " threads may run outside the cores asked for");
    const std::string precision = session.computes_in();
    if (precision != request.precision)
        throw LaunchFailure("precision_not_obeyed",
                            "asked for " + request.precision + ", the engine computes in " + precision);
}

std::unique_ptr<Session> open_canary(const LaunchRequest& request, const Options& options) {
    try {
        const CanaryRequest& canary = request.canaries;
        const NamedArrays inputs = artifact_inputs(canary.inputs, canary.edges);
        auto session = std::make_unique<Session>(
            Opening{canary.artifact, request.precision, request.threads, options, true}, inputs);
        session->run();
        return session;
    } catch (const VisitFailure& failure) {
        throw LaunchFailure("engine_unavailable", "the canary does not run: " + failure.detail);
    } catch (const std::bad_alloc&) {
        throw LaunchFailure("engine_unavailable", "the canary does not run: more memory than a runner may use");
    }
}

std::string ready_line(const LaunchRequest& request, const std::vector<std::string>& held, const Session* canary,
                       const Witness& witness, double import_ms, double canary_open_ms) {
    JsonText line;
    line.open('{').field("event", "ready").field("contract", contract);
    line.key("confinement").items(held);
    line.field("engine", "ncnn").field("engine_version", engine_version()).field("precision", request.precision);
    line.field("threads", request.threads).field("threads_observed", canary == nullptr ? 0 : canary->threads());
    line.key("affinity").items(bound_cores());
    line.field("witness_cost_ns", witness.cost_ns());
    line.field("import_ms", import_ms).field("canary_open_ms", canary_open_ms);
    line.field("runner", "native");
    line.field("sgemm_by", "ncnn");  // its times compare with those of native runners alone
    return line.close('}').text();
}

std::string end_line(const Bench& bench) {
    JsonText line;
    line.open('{').field("event", "end").field("wall_ms", process_age_ms()).field("peak_rss_bytes", peak_rss_bytes());
    line.field("timed_ms", static_cast<double>(bench.shares.timed_ns) / 1e6);
    line.field("canary_ms", static_cast<double>(bench.canaries.spent_ns) / 1e6);
    line.field("open_ms", static_cast<double>(bench.shares.open_ns) / 1e6).key("first_block_unix_s");
    if (bench.shares.first_block_unix_s) line.value(*bench.shares.first_block_unix_s);
    else line.null();
    return line.close('}').text();
}

std::string event(const char* name, int64_t visit, const std::string& fields) {
    JsonText line;
    line.open('{').field("event", name).field("visit", visit);
    std::string text = line.text();
    if (fields.size() > 2) text += "," + fields.substr(1, fields.size() - 2);
    return text + "}";
}

void launch(const LaunchRequest& request, const Lines& lines) {
    const std::vector<std::string> held = confine(request.limits);
    bind_to_cores(request.cores);
    const int64_t begun = now_ns();
    if (request.engine != "ncnn") throw LaunchFailure("engine_unavailable", "the native runner has ncnn alone");
    if (!processor_has_kernels()) throw LaunchFailure("engine_unavailable", no_kernels);
    const Options options = read_options(request.options);
    if (request.precision != "fp32" && request.precision != "int8")
        throw LaunchFailure("precision_not_obeyed", "ncnn has fp32, int8 on this host");
    if (request.threads > static_cast<int>(request.cores.size())) set_pool_spin_us(0);
    const int64_t opening = now_ns();
    std::unique_ptr<Session> canary;  // a process whose memory is looked at holds nothing but the one workload
    std::unique_ptr<Product> product;
    if (request.protocol.purpose != "memory") {
        canary = open_canary(request, options);
        check_promises(*canary, request);
    }
    const int64_t open_ns = now_ns() - opening;
    Witness witness;
    std::vector<std::pair<std::string, std::function<void()>>> runs;
    if (canary) {
        product = std::make_unique<Product>(request.canaries.sgemm_n, request.canaries.sgemm_seed);
        runs = {{"sgemm", [&] { product->run(); }}, {"mobilenet", [&] { canary->run(); }}};
    }
    Canaries canaries(std::move(runs), witness);
    Bench bench{options, witness, canaries, {}};
    const double open_ms = static_cast<double>(open_ns) / 1e6;
    const double import_ms = static_cast<double>(now_ns() - begun) / 1e6 - open_ms;
    lines.write(ready_line(request, held, canary.get(), witness, import_ms, open_ms));
    for (const Visit& visit : request.visits) {
        lines.write(event("started", visit.number, ""));
        const std::string answer = run_visit(visit, request, bench);
        bool first = true;
        for (const int64_t number : visit.numbers()) {
            if (!first) lines.write(event("started", number, ""));
            lines.write(event("done", number, answer));
            first = false;
        }
    }
    lines.write(end_line(bench));
}

// Holds the lock for as long as this process lives; the kernel lets go of it, so a file that nobody holds is stale.
void take_lock(const std::string& path) {
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) throw LaunchFailure("engine_unavailable", std::string("the lock: ") + std::strerror(errno));
    if (flock(file, LOCK_EX | LOCK_NB) != 0)
        throw LaunchFailure("engine_unavailable", "another runner holds this board's lock");
    const std::string pid = std::to_string(getpid()) + "\n";
    if (ftruncate(file, 0) != 0 || write(file, pid.data(), pid.size()) < 0)
        throw LaunchFailure("engine_unavailable", std::string("the lock: ") + std::strerror(errno));
}

void read_arguments(int count, char** words) {
    for (int number = 1; number < count; number += 2) {
        const std::string name = words[number], value = number + 1 < count ? words[number + 1] : "";
        if (name == "--lock" && !value.empty()) {
            take_lock(value);
        } else if (name == "--limit-s") {
            char* end = nullptr;
            const double seconds = std::strtod(value.c_str(), &end);
            if (end == value.c_str() || *end != '\0' || !(seconds > 0 && seconds < 1e7))
                throw BadRequest("--limit-s takes a positive number of seconds");
            end_after(seconds);
        } else {
            throw BadRequest("usage: benchfarm-runner [--lock FILE] [--limit-s N] | --probe ENGINE");
        }
    }
}

int run(int count, char** words) {
    const Lines lines;
    if (count == 3 && std::string(words[1]) == "--probe") {
        lines.write(probe(words[2]));
        return 0;
    }
    try {
        read_arguments(count, words);
        launch(read_launch_request(read_stdin()), lines);
        return 0;
    } catch (const LaunchFailure& failure) {
        JsonText line;
        line.open('{').field("event", "failed").field("code", failure.code).field("detail", failure.detail);
        lines.write(line.close('}').text());
        return exit_cannot_go_on;
    } catch (const std::bad_alloc&) {
        lines.send(no_memory);
        return exit_cannot_go_on;
    }
}

}  // namespace
}  // namespace benchfarm

// Without destructors: every line is out, and taking things apart costs time.
int main(int count, char** words) { _exit(benchfarm::run(count, words)); }
