#include "seccomp.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <initializer_list>
#include <vector>

namespace benchfarm {
namespace {

#if defined(__x86_64__)
constexpr unsigned machine = AUDIT_ARCH_X86_64, calls_end = 0x40000000u;
#else
constexpr unsigned machine = AUDIT_ARCH_AARCH64, calls_end = 0xFFFFFFFFu;
#endif

constexpr unsigned deny = SECCOMP_RET_ERRNO | EPERM;

const std::vector<long> processes_and_kernel{
    SYS_execve, SYS_execveat, SYS_setsid, SYS_setpgid, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev,
#if defined(__x86_64__)
    SYS_fork, SYS_vfork,
#endif
    434 /* pidfd_open */, 438 /* pidfd_getfd */, 424 /* pidfd_send_signal */,
    SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
    SYS_setns, SYS_unshare, SYS_mount, SYS_umount2, 425 /* io_uring_setup */, SYS_bpf, SYS_perf_event_open,
    SYS_keyctl, SYS_add_key, SYS_request_key, SYS_userfaultfd, SYS_open_by_handle_at, SYS_init_module,
    SYS_finit_module};
const std::vector<long> sockets{SYS_socket, SYS_socketpair, SYS_bind,    SYS_listen,
                                SYS_accept, SYS_accept4,    SYS_connect, SYS_sendto};

constexpr unsigned number_at = offsetof(seccomp_data, nr), machine_at = offsetof(seccomp_data, arch);
constexpr unsigned first_argument = offsetof(seccomp_data, args), second_argument = first_argument + 8;

class Program {
public:
    void add(unsigned short code, unsigned value, unsigned char yes = 0, unsigned char no = 0) {
        instructions_.push_back({code, yes, no, value});
    }

    void load(unsigned offset) { add(BPF_LD | BPF_W | BPF_ABS, offset); }
    void answer(unsigned value) { add(BPF_RET | BPF_K, value); }

    void answer_to(long call, unsigned value) {
        add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1);
        answer(value);
    }

    // Decides one call by the lower half of an argument, which is all that the kernel reads of these.
    void by_argument(long call, unsigned offset, std::initializer_list<unsigned> values, unsigned then,
                     unsigned otherwise) {
        const auto length = static_cast<unsigned char>(2 + 2 * values.size());
        add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, length);
        load(offset);
        for (const unsigned value : values) answer_to(value, then);
        answer(otherwise);
    }

    bool install() {
        const sock_fprog program{static_cast<unsigned short>(instructions_.size()), instructions_.data()};
        return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 1u << 2 /* without the slow mitigations */, &program) == 0;
    }

private:
    std::vector<sock_filter> instructions_;
};

}  // namespace

bool deny_system_calls(bool network) {
    Program program;
    program.load(machine_at);
    program.add(BPF_JMP | BPF_JEQ | BPF_K, machine, 1, 0);
    program.answer(SECCOMP_RET_KILL_PROCESS);
    program.load(number_at);
    program.add(BPF_JMP | BPF_JGE | BPF_K, calls_end, 0, 1);
    program.answer(SECCOMP_RET_KILL_PROCESS);
    for (const long call : processes_and_kernel) program.answer_to(call, deny);
    if (!network)
        for (const long call : sockets) program.answer_to(call, deny);
    const auto own = static_cast<unsigned>(getpid());
    program.by_argument(SYS_tgkill, first_argument, {own}, SECCOMP_RET_ALLOW, deny);
    program.by_argument(SYS_prlimit64, first_argument, {0u, own}, SECCOMP_RET_ALLOW, deny);
    program.by_argument(SYS_fcntl, second_argument, {8u, 15u}, deny, SECCOMP_RET_ALLOW);  // F_SETOWN, F_SETOWN_EX
    program.by_argument(SYS_ioctl, second_argument, {0x8901u, 0x8902u}, deny, SECCOMP_RET_ALLOW);
    // The flags of clone3 lie behind a pointer that a filter cannot follow: "not there" makes libc use clone.
    program.answer_to(435, SECCOMP_RET_ERRNO | ENOSYS);
    program.add(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3);
    program.load(first_argument);
    program.add(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0);
    program.answer(deny);
    program.answer(SECCOMP_RET_ALLOW);
    return program.install();
}

}  // namespace benchfarm
