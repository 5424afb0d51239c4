// The seeded numbers of inputs: the very ones of numpy's default generator, which made the references.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace benchfarm {

// n numbers of numpy.random.default_rng(seed).standard_normal(n, dtype=float32).
std::vector<float> normal_floats(uint32_t seed, size_t n);

// n numbers of numpy.random.default_rng(seed).integers(0, below, n).
std::vector<int64_t> whole_numbers(uint32_t seed, int64_t below, size_t n);

}  // namespace benchfarm
