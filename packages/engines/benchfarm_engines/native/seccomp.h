// The system-call half of confine; see benchfarm_core.seccomp, whose list this is.
#pragma once

namespace benchfarm {

// Answers EPERM to programs, processes, signals to others and (unless network) sockets. False where it cannot.
bool deny_system_calls(bool network);

}  // namespace benchfarm
