// How long a visit, and the whole process, may take.
#pragma once

namespace benchfarm {

// For its lifetime, `refuse_if_late` throws TimedOut once the seconds are over: between two native calls, never within.
class TimeLimit {
public:
    explicit TimeLimit(double seconds);
    ~TimeLimit();
    TimeLimit(const TimeLimit&) = delete;
    TimeLimit& operator=(const TimeLimit&) = delete;
};

void refuse_if_late();

// The kernel ends this process after so many seconds, whatever it does then. Throws LaunchFailure.
void end_after(double seconds);

}  // namespace benchfarm
