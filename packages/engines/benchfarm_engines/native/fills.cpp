// Papers: O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
// Generation" (2014); Marsaglia & Tsang, "The Ziggurat Method for Generating Random Variables" (2000); Lemire, "Fast
// Random Integer Generation in an Interval" (2019).
#include "fills.h"

#include <cmath>

namespace benchfarm {
namespace {

__extension__ typedef unsigned __int128 Wide;

// numpy's PCG64, seeded through its SeedSequence.
class Generator {
public:
    explicit Generator(uint32_t seed) {
        uint32_t pool[4];
        fill_pool(seed, pool);
        uint64_t words[4];
        spread(pool, words);
        const Wide start = Wide{words[0]} << 64 | words[1];
        increment_ = (Wide{words[2]} << 64 | words[3]) << 1 | 1;
        state_ = increment_ + start;
        step();
    }

    uint32_t next32() {
        if (has_half_) {
            has_half_ = false;
            return half_;
        }
        const uint64_t both = next64();
        half_ = static_cast<uint32_t>(both >> 32);
        has_half_ = true;
        return static_cast<uint32_t>(both);
    }

    float next_float() { return static_cast<float>(next32() >> 8) * (1.0f / 16777216.0f); }

private:
    // Hashing constant that changes with every use.
    struct Hash {
        uint32_t constant, factor;
        uint32_t operator()(uint32_t value) {
            value ^= constant;
            constant *= factor;
            value *= constant;
            return value ^ value >> 16;
        }
    };

    static void fill_pool(uint32_t seed, uint32_t (&pool)[4]) {
        Hash hash{0x43b0d7e5u, 0x931e8875u};
        for (int number = 0; number < 4; ++number) pool[number] = hash(number == 0 ? seed : 0);
        for (int from = 0; from < 4; ++from) {
            for (int to = 0; to < 4; ++to) {
                if (from == to) continue;
                const uint32_t mixed = 0xca01f9ddu * pool[to] - 0x4973f715u * hash(pool[from]);
                pool[to] = mixed ^ mixed >> 16;
            }
        }
    }

    static void spread(const uint32_t (&pool)[4], uint64_t (&words)[4]) {
        Hash hash{0x8b51f9ddu, 0x58f38dedu};
        for (int number = 0; number < 4; ++number) {
            const uint64_t low = hash(pool[2 * number % 4]);
            words[number] = low | uint64_t{hash(pool[(2 * number + 1) % 4])} << 32;
        }
    }

    void step() {
        constexpr Wide multiplier = Wide{2549297995355413924ull} << 64 | 4865540595714422341ull;
        state_ = state_ * multiplier + increment_;
    }

    uint64_t next64() {
        step();
        const uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
        const unsigned turn = static_cast<unsigned>(state_ >> 122);
        return folded >> turn | folded << (-turn & 63);
    }

    Wide state_ = 0, increment_ = 0;
    bool has_half_ = false;
    uint32_t half_ = 0;
};

// 256 layers of equal area under exp(-x^2 / 2), in 23 bits.
struct Ziggurat {
    static constexpr double end = 3.6541528853610087963519472518;
    uint32_t sure[256];  // below it a draw lies inside its layer for certain
    float width[256], height[256];

    Ziggurat() {
        constexpr double steps = 8388608.0;
        const auto curve = [](double x) { return std::exp(-0.5 * x * x); };
        const double area = end * curve(end) + std::sqrt(std::acos(0.0)) * std::erfc(end / std::sqrt(2.0));
        double x = end, outer = end;
        const double base = area / curve(end);
        sure[0] = static_cast<uint32_t>(std::nearbyint(end / base * steps));
        sure[1] = 0;
        width[0] = static_cast<float>(base / steps);
        width[255] = static_cast<float>(end / steps);
        height[0] = 1.0f;
        height[255] = static_cast<float>(curve(end));
        for (int layer = 254; layer >= 1; --layer) {
            x = std::sqrt(-2.0 * std::log(area / x + curve(x)));
            sure[layer + 1] = static_cast<uint32_t>(std::nearbyint(x / outer * steps));
            outer = x;
            height[layer] = static_cast<float>(curve(x));
            width[layer] = static_cast<float>(x / steps);
        }
    }
};

float beyond_end(Generator& generator, bool negative) {
    constexpr float end = 3.6541528853610087963519472518f, inverse = 0.27366123732975827203338247596f;
    while (true) {
        const float x = -inverse * std::log1p(-generator.next_float());
        const float y = -std::log1p(-generator.next_float());
        if (y + y > x * x) return negative ? -(end + x) : end + x;
    }
}

float normal(Generator& generator, const Ziggurat& ziggurat) {
    while (true) {
        const uint32_t bits = generator.next32();
        const unsigned layer = bits & 0xff, steps = bits >> 9 & 0x7fffff;
        float x = static_cast<float>(steps) * ziggurat.width[layer];
        if (bits >> 8 & 1) x = -x;
        if (steps < ziggurat.sure[layer]) return x;
        if (layer == 0) return beyond_end(generator, steps >> 8 & 1);
        const float drop = ziggurat.height[layer - 1] - ziggurat.height[layer];
        if (drop * generator.next_float() + ziggurat.height[layer] < std::exp(-0.5 * x * x)) return x;
    }
}

}  // namespace

std::vector<float> normal_floats(uint32_t seed, size_t n) {
    static const Ziggurat ziggurat;
    std::vector<float> made(n);
    Generator generator(seed);
    for (float& each : made) each = normal(generator, ziggurat);
    return made;
}

std::vector<int64_t> whole_numbers(uint32_t seed, int64_t below, size_t n) {
    std::vector<int64_t> made(n, 0);
    if (below == 1) return made;
    Generator generator(seed);
    const uint32_t range = static_cast<uint32_t>(below);  // at most 2^31 - 1
    for (int64_t& each : made) {
        uint64_t product = uint64_t{generator.next32()} * range;
        if (static_cast<uint32_t>(product) < range) {
            const uint32_t threshold = (UINT32_MAX - (range - 1)) % range;
            while (static_cast<uint32_t>(product) < threshold) product = uint64_t{generator.next32()} * range;
        }
        each = static_cast<int64_t>(product >> 32);
    }
    return made;
}

}  // namespace benchfarm
