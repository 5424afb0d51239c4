// Arrays of the workload and of the artifact: made from fills, translated at the edges, read from references, compared.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "request.h"

namespace benchfarm {

// C order, host byte order. dtype: numpy's name.
struct Array {
    std::string dtype;
    Shape shape;
    std::vector<char> bytes;

    template <class Item>
    const Item* as() const { return reinterpret_cast<const Item*>(bytes.data()); }
    template <class Item>
    Item* as() { return reinterpret_cast<Item*>(bytes.data()); }
};

using NamedArrays = std::vector<std::pair<std::string, Array>>;

// The number of elements; throws std::bad_alloc where no memory could hold them.
size_t elements(const Shape& shape);
size_t item_bytes(const std::string& dtype);
std::string written(const Shape& shape);

// A workload's seeded inputs as its artifact takes them. Throws VisitFailure (conversion_failed), std::bad_alloc.
NamedArrays artifact_inputs(const std::vector<InputSpec>& specs, const std::optional<Edges>& edges);

// The artifact's outputs as the workload has them; shapes are the workload's. Throws VisitFailure (wrong_result).
void to_workload(std::vector<Array>& outputs, const std::optional<Edges>& edges, const std::vector<Array>& wanted);

// The arrays out0, out1, ... of an .npz. Throws VisitFailure (engine_error): the farm's fault, not the workload's.
std::vector<Array> load_reference(const std::string& path);

// ||output - reference|| / ||reference|| of each output by itself; of one that must be 0 throughout, beside all of them.
// As `gate.distances` has it. Throws VisitFailure (wrong_result) where a shape differs or an output is not finite.
std::vector<double> distances(const std::vector<Array>& outputs, const std::vector<Array>& reference);

// The largest relative L2 of an output, which is at most `limit`. Throws VisitFailure (wrong_result).
double check_outputs(const std::vector<Array>& outputs, const std::vector<Array>& reference, double limit);

// An output that is farther from its twin than `limit` is wrong, unless it is as near to the workload's own reference
// as the twin. Throws VisitFailure (wrong_result).
void check_beside_twin(const std::vector<Array>& outputs, const std::vector<Array>& reference,
                       const std::vector<Array>& twin, double limit);

}  // namespace benchfarm
