// The threads of ncnn: what its compiled parallel loops call instead of an OpenMP runtime.
#pragma once

namespace benchfarm {

// How long a thread of the pool waits spinning before it sleeps. Spinning threads must not wait for each other's cores.
void set_pool_spin_us(int microseconds);

// Starts the threads that a team of this size needs, the caller's included.
void start_pool(int threads);

}  // namespace benchfarm
