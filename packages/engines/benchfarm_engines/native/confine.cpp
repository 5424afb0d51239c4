#include "confine.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "failures.h"
#include "seccomp.h"

namespace benchfarm {
namespace {

constexpr rlim_t file_size_bytes = rlim_t{256} << 20;
constexpr rlim_t open_files = 1024;

LaunchFailure cannot(const std::string& what) {
    return LaunchFailure("engine_unavailable", what + ": " + std::strerror(errno));
}

void limit(int resource, rlim_t soft, rlim_t hard) {
    struct rlimit inherited {};
    getrlimit(resource, &inherited);  // which an ordinary user cannot raise
    const rlim_t ceiling = inherited.rlim_max == RLIM_INFINITY ? hard : std::min(hard, inherited.rlim_max);
    const struct rlimit wanted {std::min(soft, ceiling), ceiling};
    if (setrlimit(resource, &wanted) != 0) throw cannot("setrlimit");
}

void set_limits(const Limits& limits) {
    const auto memory = static_cast<rlim_t>(limits.memory_bytes), cpu = static_cast<rlim_t>(limits.cpu_s);
    limit(RLIMIT_AS, memory, memory);
    limit(RLIMIT_CPU, cpu, cpu + 1);
    limit(RLIMIT_FSIZE, file_size_bytes, file_size_bytes);
    limit(RLIMIT_NOFILE, open_files, open_files);
    limit(RLIMIT_CORE, 0, 0);
}

bool leave_network(const Limits& limits) { return !limits.network && syscall(SYS_unshare, CLONE_NEWNET) == 0; }

// Whether that user can read what is to be read, tried as that user.
bool reachable_by(uid_t uid, gid_t gid, const Limits& limits) {
    bool reachable = syscall(SYS_setresgid, -1, gid, -1) == 0 && syscall(SYS_setresuid, -1, uid, -1) == 0;
    for (const std::string& path : limits.readable)
        reachable = reachable && faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) == 0;
    for (const std::string& path : limits.writable)
        reachable = reachable && faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
    return syscall(SYS_setresuid, -1, 0, -1) == 0 && syscall(SYS_setresgid, -1, 0, -1) == 0 && reachable;
}

bool change_user(const Limits& limits) {
    if (!limits.uid || !limits.gid || geteuid() != 0) return false;
    const auto uid = static_cast<uid_t>(*limits.uid);
    const auto gid = static_cast<gid_t>(*limits.gid);
    if (!reachable_by(uid, gid, limits)) return false;
    if (setgroups(0, nullptr) != 0 || setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
        throw cannot("a change of user");
    return true;
}

bool drop_capabilities() {
    for (int capability = 0; capability < 64; ++capability) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    struct { uint32_t version; int pid; } header{0x20080522, 0};
    struct { uint32_t effective, permitted, inheritable; } none[2] = {};
    return syscall(SYS_capset, &header, none) == 0;
}

// --- Landlock: which paths the process can open at all

constexpr long create_ruleset = 444, add_rule = 445, restrict_self = 446;  // the same on every architecture
constexpr uint64_t write_file = 1 << 1, read_file_right = 1 << 2, read_dir = 1 << 3, remove_any = 3 << 4;
constexpr uint64_t make_dir = 1 << 7, make_file = 1 << 8, truncate_file = 1 << 14;
constexpr uint64_t on_files = write_file | read_file_right | truncate_file;
constexpr uint64_t reading = read_file_right | read_dir;
constexpr uint64_t writing = reading | write_file | remove_any | make_dir | make_file | truncate_file;

struct __attribute__((packed)) PathRule {
    uint64_t allowed;
    int32_t parent;
};

// Returns the descriptor, for the one folder whose entry must stay: /proc makes a new one when the old was dropped.
int allow(int ruleset, const std::string& path, uint64_t rights) {
    const int descriptor = open(path.c_str(), O_PATH | O_CLOEXEC);
    if (descriptor < 0) return -1;  // absent here: nothing to allow
    struct stat status {};
    const bool folder = fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode);
    const PathRule rule{folder ? rights : rights & on_files, descriptor};
    syscall(add_rule, ruleset, 1, &rule, 0);
    return descriptor;
}

bool restrict_files(const Limits& limits) {
    const long version = syscall(create_ruleset, nullptr, 0, 1);
    if (version < 1) return false;
    const int bits = version == 1 ? 13 : version == 2 ? 14 : version <= 4 ? 15 : 16;
    const uint64_t handled = (uint64_t{1} << bits) - 1;
    const uint64_t attributes[3] = {handled, version >= 4 && !limits.network ? 3u : 0u, version >= 6 ? 3u : 0u};
    const size_t size = version < 4 ? 8 : version < 6 ? 16 : 24;
    const long ruleset = syscall(create_ruleset, attributes, size, 0);
    if (ruleset < 0) return false;
    const int rules = static_cast<int>(ruleset);
    for (const char* path : {"/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices"})
        close(allow(rules, path, reading & handled));
    for (const std::string& path : limits.readable) close(allow(rules, path, reading & handled));
    for (const std::string& path : limits.writable) close(allow(rules, path, writing & handled));
    allow(rules, "/proc/self", reading & handled);  // stays open
    const bool holds = syscall(restrict_self, rules, 0) == 0;
    close(rules);
    return holds;
}

bool holds(const std::vector<std::string>& held, const char* name) {
    return std::find(held.begin(), held.end(), name) != held.end();
}

// What the mechanisms leave to a stranger's file; see benchfarm_core.confine.left_open.
std::string left_open(const std::vector<std::string>& held) {
    const bool files = !holds(held, "landlock") && !holds(held, "uid");
    const bool network = !holds(held, "seccomp") && !(holds(held, "netns") && holds(held, "uid"));
    return files && network ? "files and network" : files ? "files" : network ? "network" : "";
}

}  // namespace

std::vector<std::string> confine(const Limits& limits) {
    int dies_with_parent = 0;
    prctl(PR_GET_PDEATHSIG, &dies_with_parent);
    const pid_t parent = getppid();
    set_limits(limits);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw cannot("no_new_privs");
    std::vector<std::string> held{"rlimits", "no_new_privs"};
    const auto note = [&](bool done, const char* name) {
        if (done) held.emplace_back(name);
    };
    note(leave_network(limits), "netns");  // needs the capabilities that a later step drops
    note(change_user(limits), "uid");
    note(restrict_files(limits), "landlock");
    note(drop_capabilities(), "no_capabilities");
    note(deny_system_calls(limits.network), "seccomp");
    if (dies_with_parent != 0) {  // a change of user has cleared it
        prctl(PR_SET_PDEATHSIG, dies_with_parent);
        if (getppid() != parent) _exit(1);
    }
    const std::string open_to = left_open(held);
    if (limits.strict && !open_to.empty())
        throw LaunchFailure("engine_unavailable",
                            "this host cannot confine a stranger's file: " + open_to + " stay open");
    return held;
}

std::vector<int> bound_cores() {
    std::vector<int> cores;
    cpu_set_t* set = CPU_ALLOC(4096);
    const size_t size = CPU_ALLOC_SIZE(4096);
    CPU_ZERO_S(size, set);
    if (sched_getaffinity(0, size, set) == 0)
        for (int core = 0; core < 4096; ++core)
            if (CPU_ISSET_S(core, size, set)) cores.push_back(core);
    CPU_FREE(set);
    return cores;
}

void bind_to_cores(const std::vector<int>& cores) {
    std::string names;
    cpu_set_t* set = CPU_ALLOC(4096);
    const size_t size = CPU_ALLOC_SIZE(4096);
    CPU_ZERO_S(size, set);
    for (const int core : cores) {
        CPU_SET_S(core, size, set);
        names += (names.empty() ? "" : ", ") + std::to_string(core);
    }
    const bool bound = sched_setaffinity(0, size, set) == 0;
    const std::string reason = bound ? "got others" : std::strerror(errno);
    CPU_FREE(set);
    std::vector<int> wanted = cores;
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    if (!bound || bound_cores() != wanted)
        throw LaunchFailure("affinity_refused", "cores [" + names + "]: " + reason);
}

}  // namespace benchfarm
