#include "time_limit.h"

#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include <cmath>

#include "failures.h"

namespace benchfarm {
namespace {

volatile sig_atomic_t is_late = 0;

void on_alarm(int) { is_late = 1; }

void set_alarm(double seconds) {
    itimerval after{};
    after.it_value.tv_sec = static_cast<time_t>(seconds);
    after.it_value.tv_usec = static_cast<suseconds_t>((seconds - std::floor(seconds)) * 1e6);
    if (seconds > 0 && after.it_value.tv_sec == 0 && after.it_value.tv_usec == 0) after.it_value.tv_usec = 1;
    setitimer(ITIMER_REAL, &after, nullptr);
}

}  // namespace

TimeLimit::TimeLimit(double seconds) {
    struct sigaction action {};
    action.sa_handler = on_alarm;
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    is_late = 0;
    set_alarm(std::fmin(seconds, 1e8));
}

TimeLimit::~TimeLimit() { set_alarm(0); }

void refuse_if_late() {
    if (is_late) throw TimedOut{};
}

void end_after(double seconds) {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    timer_t timer{};
    itimerspec after{};
    after.it_value.tv_sec = static_cast<time_t>(seconds);
    after.it_value.tv_nsec = static_cast<long>((seconds - std::floor(seconds)) * 1e9);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || timer_settime(timer, 0, &after, nullptr) != 0)
        throw LaunchFailure("engine_unavailable", "this kernel sets no limit of time");
}

}  // namespace benchfarm
