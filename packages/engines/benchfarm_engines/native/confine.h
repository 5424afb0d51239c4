// Puts this process in a cage before it touches anything that a stranger wrote; see benchfarm_core.confine.
#pragma once

#include <string>
#include <vector>

#include "request.h"

namespace benchfarm {

// Applies the limits to this process for good; returns the mechanisms that hold. Must run before any thread is started.
// Throws LaunchFailure (engine_unavailable) where strict limits would leave files or the network open.
std::vector<std::string> confine(const Limits& limits);

// Binds this process, and every thread that it starts later. Throws LaunchFailure (affinity_refused).
void bind_to_cores(const std::vector<int>& cores);

// The cores that this process may run on.
std::vector<int> bound_cores();

}  // namespace benchfarm
