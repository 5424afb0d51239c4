#include "arrays.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <new>
#include <numeric>

#include "failures.h"
#include "fills.h"

namespace benchfarm {
namespace {

constexpr size_t elements_max = size_t{1} << 40;

VisitFailure unfit(const std::string& detail) {
    return VisitFailure("conversion_failed", "the artifact's edges do not fit: " + detail);
}

template <class From, class To>
std::vector<char> cast_items(const From* from, size_t n) {
    std::vector<char> bytes(n * sizeof(To));
    To* to = reinterpret_cast<To*>(bytes.data());
    for (size_t number = 0; number < n; ++number) to[number] = static_cast<To>(from[number]);
    return bytes;
}

template <class From>
std::vector<char> cast_to(const std::string& dtype, const From* from, size_t n) {
    if (dtype == "float32") return cast_items<From, float>(from, n);
    if (dtype == "float64") return cast_items<From, double>(from, n);
    if (dtype == "int64") return cast_items<From, int64_t>(from, n);
    if (dtype == "int32") return cast_items<From, int32_t>(from, n);
    if (dtype == "int8") return cast_items<From, int8_t>(from, n);
    if (dtype == "uint8") return cast_items<From, uint8_t>(from, n);
    throw VisitFailure("conversion_failed", "this runner makes no inputs of " + dtype);
}

Array filled(const InputSpec& spec) {
    Array made{spec.dtype, spec.shape, {}};
    const size_t n = elements(spec.shape);
    if (spec.fill.normal) made.bytes = cast_to(spec.dtype, normal_floats(spec.fill.seed, n).data(), n);
    else made.bytes = cast_to(spec.dtype, whole_numbers(spec.fill.seed, spec.fill.below, n).data(), n);
    return made;
}

std::vector<char> in_steps(const Array& real, const Edge& edge, size_t n) {
    if (real.dtype != "float32" || (edge.dtype != "int8" && edge.dtype != "uint8"))
        throw unfit(real.dtype + " in steps of " + edge.dtype);
    const float low = edge.dtype == "int8" ? -128.0f : 0.0f, high = edge.dtype == "int8" ? 127.0f : 255.0f;
    const float scale = static_cast<float>(edge.scale), zero = static_cast<float>(edge.zero_point);
    std::vector<float> codes(real.as<float>(), real.as<float>() + n);
    for (float& each : codes) each = std::min(high, std::max(low, std::nearbyint(each / scale) + zero));
    return cast_to(edge.dtype, codes.data(), n);
}

Array inward(Array array, const Edge& edge) {
    if (!edge.axes.empty()) throw unfit("this runner does not reorder axes");
    const size_t n = elements(array.shape);
    if (!edge.shape.empty()) {
        if (elements(edge.shape) != n) throw unfit(written(array.shape) + " as " + written(edge.shape));
        array.shape = edge.shape;
    }
    if (edge.scale > 0) array.bytes = in_steps(array, edge, n);
    else if (edge.dtype == array.dtype) return array;
    else if (array.dtype == "int64") array.bytes = cast_to(edge.dtype, array.as<int64_t>(), n);
    else if (array.dtype == "int32") array.bytes = cast_to(edge.dtype, array.as<int32_t>(), n);
    else if (array.dtype == "float32") array.bytes = cast_to(edge.dtype, array.as<float>(), n);
    else throw unfit(array.dtype + " as " + edge.dtype);
    array.dtype = edge.dtype;
    return array;
}

// One element of whatever type as a real number.
std::function<double(size_t)> reader_of(const Array& array) {
    if (array.dtype == "float32") return [from = array.as<float>()](size_t at) { return double(from[at]); };
    if (array.dtype == "float64") return [from = array.as<double>()](size_t at) { return from[at]; };
    if (array.dtype == "int8") return [from = array.as<int8_t>()](size_t at) { return double(from[at]); };
    if (array.dtype == "uint8" || array.dtype == "bool")
        return [from = array.as<uint8_t>()](size_t at) { return double(from[at]); };
    if (array.dtype == "int32") return [from = array.as<int32_t>()](size_t at) { return double(from[at]); };
    return [from = array.as<int64_t>()](size_t at) { return double(from[at]); };
}

VisitFailure wrong(const std::string& detail) { return VisitFailure("wrong_result", detail); }

std::string rounded(double number) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.3g", number);
    return digits;
}

}  // namespace

size_t elements(const Shape& shape) {
    size_t n = 1;
    for (const int64_t size : shape) {
        if (size == 0) return 0;
        if (n > elements_max / static_cast<size_t>(size)) throw std::bad_alloc();
        n *= static_cast<size_t>(size);
    }
    return n;
}

size_t item_bytes(const std::string& dtype) {
    if (dtype == "float64" || dtype == "int64") return 8;
    if (dtype == "float32" || dtype == "int32") return 4;
    return dtype == "float16" ? 2 : 1;
}

std::string written(const Shape& shape) {
    std::string text = "[";
    for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

NamedArrays artifact_inputs(const std::vector<InputSpec>& specs, const std::optional<Edges>& edges) {
    NamedArrays made;
    if (edges && edges->inputs.size() != specs.size()) throw unfit("not as many as inputs");
    for (size_t number = 0; number < specs.size(); ++number) {
        Array array = filled(specs[number]);
        if (!edges) made.emplace_back(specs[number].name, std::move(array));
        else made.emplace_back(edges->inputs[number].name, inward(std::move(array), edges->inputs[number]));
    }
    return made;
}

void to_workload(std::vector<Array>& outputs, const std::optional<Edges>& edges, const std::vector<Array>& wanted) {
    if (!edges) return;
    if (edges->outputs.size() != outputs.size() || wanted.size() != outputs.size())
        throw wrong("the outputs do not fit the edges: not as many");
    for (size_t number = 0; number < outputs.size(); ++number) {
        const Edge& edge = edges->outputs[number];
        Array& output = outputs[number];
        if (!edge.axes.empty()) throw unfit("this runner does not reorder axes");
        const size_t n = elements(output.shape);
        if (edge.scale > 0) {
            const auto code = reader_of(output);
            std::vector<float> real(n);
            const float scale = static_cast<float>(edge.scale), zero = static_cast<float>(edge.zero_point);
            for (size_t at = 0; at < n; ++at) real[at] = (static_cast<float>(code(at)) - zero) * scale;
            output.bytes = cast_to("float32", real.data(), n);
            output.dtype = "float32";
        }
        if (n == elements(wanted[number].shape)) output.shape = wanted[number].shape;
    }
}

namespace {

double largest(const std::vector<double>& found, double limit) {
    double most = 0;
    for (size_t number = 0; number < found.size(); ++number) {
        const std::string what =
            found.size() == 1 ? "against the reference" : "of output " + std::to_string(number) + " by itself";
        if (!(found[number] <= limit))
            throw wrong("relative L2 " + what + " is " + rounded(found[number]) + ", allowed is " + rounded(limit));
        most = std::max(most, found[number]);
    }
    return most;
}

}  // namespace

std::vector<double> distances(const std::vector<Array>& outputs, const std::vector<Array>& reference) {
    bool same = outputs.size() == reference.size();
    for (size_t number = 0; same && number < outputs.size(); ++number)
        same = outputs[number].shape == reference[number].shape;
    if (!same) {
        std::string shapes;
        for (const Array& each : outputs) shapes += (shapes.empty() ? "" : ", ") + written(each.shape);
        throw wrong("output shapes [" + shapes + "] differ from the reference");
    }
    std::vector<double> errors, norms;
    for (size_t number = 0; number < outputs.size(); ++number) {
        const auto got = reader_of(outputs[number]), expected = reader_of(reference[number]);
        const size_t n = elements(outputs[number].shape);
        double error = 0, norm = 0;
        for (size_t at = 0; at < n; ++at) {
            const double value = got(at), truth = expected(at);
            if (!std::isfinite(value)) throw wrong("output " + std::to_string(number) + " holds NaN or Inf");
            norm += truth * truth;
            error += (value - truth) * (value - truth);
        }
        errors.push_back(error);
        norms.push_back(norm);
    }
    const double whole = std::accumulate(norms.begin(), norms.end(), 0.0);
    std::vector<double> found;
    for (size_t number = 0; number < outputs.size(); ++number) {
        const double norm = norms[number] != 0 ? norms[number] : whole;
        if (norm != 0) found.push_back(std::sqrt(errors[number] / norm));
        else found.push_back(errors[number] == 0 ? 0 : HUGE_VAL);
    }
    return found;
}

double check_outputs(const std::vector<Array>& outputs, const std::vector<Array>& reference, double limit) {
    return largest(distances(outputs, reference), limit);
}

void check_beside_twin(const std::vector<Array>& outputs, const std::vector<Array>& reference,
                       const std::vector<Array>& twin, double limit) {
    std::vector<double> far = distances(outputs, twin);
    if (std::all_of(far.begin(), far.end(), [limit](double one) { return one <= limit; })) return;
    const std::vector<double> mine = distances(outputs, reference), its = distances(twin, reference);
    for (size_t number = 0; number < far.size(); ++number)
        if (mine[number] <= its[number]) far[number] = 0;
    largest(far, limit);
}

}  // namespace benchfarm
