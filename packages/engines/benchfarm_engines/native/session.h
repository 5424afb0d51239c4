// ncnn on its CPU kernels: fp32, and int8 in the layers that it has in int8. The twin of benchfarm_engines.ncnn_engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arrays.h"
#include "request.h"

namespace benchfarm {

// beside_another: another session of this process is measured in turn with this one.
struct Opening {
    std::string artifact, precision;
    int threads = 1;
    Options options;
    bool beside_another = false;
};

// A model that is ready to run on fixed inputs. It may not be copied: ncnn's buffers belong to its net.
class Session {
public:
    // Loads the layers and weights and copies the inputs. Throws VisitFailure, std::bad_alloc.
    Session(const Opening& opening, const NamedArrays& inputs);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    int threads() const;
    // One inference; the outputs stay inside until the next. Throws VisitFailure, TimedOut.
    void run();
    // Copies of the outputs of the latest run, in graph order.
    std::vector<Array> outputs() const;
    // The precision that the opened model computes in: int8 where at least one layer does.
    std::string computes_in() const;

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

// Whether ncnn's fast kernels that are built in run on this processor: on x86 those from AVX on.
bool processor_has_kernels();

// The version of ncnn that is built in.
std::string engine_version();

// An n x n x n product of seeded fp32 matrices on one thread, as ncnn computes it: compute-bound.
class Product {
public:
    Product(int64_t n, uint32_t seed);
    ~Product();
    void run();

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace benchfarm
