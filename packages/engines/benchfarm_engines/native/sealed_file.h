// The one file of an ncnn artifact: weights first, then a JSON document about them, then a checksum over both.
#pragma once

#include <string>
#include <vector>

#include "request.h"

namespace benchfarm {

// A whole file. Throws std::ios_base::failure.
std::string read_file(const std::string& path);

// An input or output. shape: without the batch axis; empty for outputs.
struct Blob {
    std::string name, dtype;
    Shape shape;
};

// What ncnn needs beside the weights. batch: inputs in one run, each of the blobs' shapes.
struct Model {
    std::string param;
    std::vector<Blob> inputs, outputs;
    int batch = 1;
};

// What a sealed file says. Throws VisitFailure (invalid_workload, engine_error).
Model read_artifact(const std::string& path);

}  // namespace benchfarm
