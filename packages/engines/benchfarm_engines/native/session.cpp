#include "session.h"

#include <cpu.h>
#include <net.h>

#include <cstring>
#include <map>
#include <new>
#include <sstream>

#include "failures.h"
#include "fills.h"
#include "heap.h"
#include "pool.h"
#include "sealed_file.h"
#include "threads.h"
#include "time_limit.h"

namespace benchfarm {
namespace {

constexpr int no_memory = -100;  // what ncnn answers when a buffer cannot be had

// Where a layer's line says that it computes in int8.
const std::map<std::string, std::string> int8_keys{{"Convolution", "8="},
                                                   {"ConvolutionDepthWise", "8="},
                                                   {"InnerProduct", "8="},
                                                   {"Gemm", "18="},
                                                   {"SDPA", "18="}};

void set_options(ncnn::Option& wanted, const Opening& opening) {
    wanted.num_threads = opening.threads;
    wanted.openmp_blocktime = opening.beside_another ? 0 : 20;
    wanted.use_vulkan_compute = false;
    wanted.use_fp16_packed = wanted.use_fp16_storage = wanted.use_fp16_arithmetic = false;
    wanted.use_bf16_packed = wanted.use_bf16_storage = false;
    wanted.use_packing_layout = opening.options.packing;
    wanted.use_winograd_convolution = opening.options.winograd;
    wanted.use_int8_inference = opening.precision == "int8";
}

std::vector<std::string> layer_lines(const std::string& param) {
    std::istringstream text(param);
    std::vector<std::string> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    if (lines.size() >= 2) lines.erase(lines.begin(), lines.begin() + 2);
    return lines;
}

VisitFailure refused(const std::string& param) {
    for (const std::string& line : layer_lines(param)) {
        std::string kind;
        std::istringstream(line) >> kind;
        if (kind.empty()) continue;
        const std::unique_ptr<ncnn::Layer> layer(ncnn::create_layer_cpu(kind.c_str()));
        if (!layer) return VisitFailure("unsupported_operator", "ncnn has no layer " + kind.substr(0, 60), kind);
    }
    return VisitFailure("conversion_failed", "ncnn does not take the layers");
}

void load(ncnn::Net& net, const Model& model, const Opening& opening) {
    set_options(net.opt, opening);
    if (net.load_param_mem(model.param.c_str()) != 0) throw refused(model.param);
    const int code = net.load_model(opening.artifact.c_str());
    if (code == no_memory) throw std::bad_alloc();
    if (code != 0)
        throw VisitFailure("conversion_failed", "ncnn does not take the weights: " + std::to_string(code));
    drop_kept_memory();
}

Shape full_shape(const Blob& blob, const Model& model) {
    Shape shape = blob.shape;
    if (model.batch != 1) shape.insert(shape.begin(), model.batch);
    return shape;
}

void refuse_other_inputs(const Model& model, const NamedArrays& inputs) {
    std::map<std::string, const Blob*> wanted;
    for (const Blob& blob : model.inputs) wanted[blob.name] = &blob;
    bool known = wanted.size() == inputs.size();
    for (const auto& each : inputs) known = known && wanted.count(each.first) == 1;
    if (!known) throw VisitFailure("invalid_workload", "the workload does not name the model's inputs");
    for (const auto& [name, array] : inputs) {
        const Blob& blob = *wanted[name];
        const Shape shape = full_shape(blob, model);
        if (array.dtype != blob.dtype || array.shape != shape)
            throw VisitFailure("invalid_workload",
                               "input " + name + " is " + blob.dtype + " " + written(shape) + " in the model");
    }
}

ncnn::Mat blank(const Shape& shape, size_t bytes, int batch) {
    std::vector<int> s(shape.begin(), shape.end());
    ncnn::Mat mat;
    if (batch == 1) {
        if (s.size() == 1) mat.create(s[0], bytes, 1);
        if (s.size() == 2) mat.create(s[1], s[0], bytes, 1);
        if (s.size() == 3) mat.create(s[2], s[1], s[0], bytes, 1);
        if (s.size() == 4) mat.create(s[3], s[2], s[1], s[0], bytes, 1);
    } else {
        if (s.size() == 1) mat.create(s[0], bytes, 1, batch);
        if (s.size() == 2) mat.create(s[1], s[0], bytes, 1, batch);
        if (s.size() == 3) mat.create(s[2], s[1], s[0], bytes, 1, batch);
        if (s.size() == 4) mat.create(s[3], s[2], s[1], s[0], bytes, 1, batch);
    }
    if (mat.empty()) throw std::bad_alloc();
    return mat;
}

// Calls copy(part of a channel, bytes) for every channel of every input of a batch, in the order of a plain array.
template <class Copy>
void each_channel(const ncnn::Mat& mat, const Copy& copy) {
    const size_t plane = static_cast<size_t>(mat.w) * mat.h * mat.d * mat.elemsize;
    for (int number = 0; number < mat.n; ++number) {
        const ncnn::Mat one = mat.n == 1 ? mat : mat.batch(number);
        for (int channel = 0; channel < one.c; ++channel)
            copy(static_cast<char*>(one.data) + one.cstep * channel * one.elemsize, plane);
    }
}

ncnn::Mat as_mat(const Array& array, const Shape& shape, int batch) {
    ncnn::Mat mat = blank(shape, item_bytes(array.dtype), batch);
    const char* from = array.bytes.data();
    each_channel(mat, [&](char* part, size_t bytes) {
        std::memcpy(part, from, bytes);
        from += bytes;
    });
    return mat;
}

Array as_array(const ncnn::Mat& mat) {
    if (mat.elempack != 1 || (mat.elemsize != 4 && mat.elemsize != 1))
        throw VisitFailure("engine_error", "ncnn made an output of " + std::to_string(mat.elemsize) + " bytes");
    Array array{mat.elemsize == 4 ? "float32" : "int8", {}, {}};
    if (mat.n != 1) array.shape.push_back(mat.n);
    if (mat.dims >= 3) array.shape.push_back(mat.c);
    if (mat.dims == 4) array.shape.push_back(mat.d);
    if (mat.dims >= 2) array.shape.push_back(mat.h);
    array.shape.push_back(mat.w);
    array.bytes.reserve(elements(array.shape) * mat.elemsize);
    each_channel(mat, [&](const char* part, size_t bytes) { array.bytes.insert(array.bytes.end(), part, part + bytes); });
    return array;
}

// Counted, not believed: ncnn starts no thread but those of the pool, and nothing else here starts any.
int counted_threads(int wanted) {
    start_pool(wanted);
    return wanted > 1 ? static_cast<int>(thread_ids().size()) : 1;
}

bool is_int8(const std::string& line) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    const auto key = int8_keys.find(kind);
    if (key == int8_keys.end()) return false;
    for (std::string word; words >> word;)
        if (word.rfind(key->second, 0) == 0 && word != key->second + "0") return true;
    return false;
}

int index_of(const std::vector<const char*>& names, const std::vector<int>& indexes, const std::string& name) {
    for (size_t number = 0; number < names.size(); ++number)
        if (name == names[number]) return indexes[number];
    throw VisitFailure("invalid_workload", "the model has no blob " + name);
}

}  // namespace

struct Session::Parts {
    struct Input {
        int index;
        ncnn::Mat mat;
    };
    struct Output {
        int index, kind;
        ncnn::Mat mat, plain;  // plain: where the kept int8 numbers have interleaved channels
        bool packed;
    };
    ncnn::Net net;  // outlives the buffers below, which are its pools'
    Model model;
    std::vector<Input> inputs;
    std::vector<Output> outputs;
    int threads = 1;
    bool settled = false;
};

Session::Session(const Opening& opening, const NamedArrays& inputs) : parts_(new Parts) {
    Parts& parts = *parts_;
    parts.model = read_artifact(opening.artifact);
    refuse_other_inputs(parts.model, inputs);
    load(parts.net, parts.model, opening);
    for (const auto& [name, array] : inputs) {
        Shape shape = array.shape;
        if (parts.model.batch != 1) shape.erase(shape.begin());
        const int index = index_of(parts.net.input_names(), parts.net.input_indexes(), name);
        parts.inputs.push_back({index, as_mat(array, shape, parts.model.batch)});
    }
    for (const Blob& blob : parts.model.outputs) {
        const int index = index_of(parts.net.output_names(), parts.net.output_indexes(), blob.name);
        parts.outputs.push_back({index, blob.dtype == "int8" ? 1 : 0, {}, {}, false});  // 1: int8 is not widened
    }
    parts.threads = counted_threads(opening.threads);
}

Session::~Session() = default;

int Session::threads() const { return parts_->threads; }

void Session::run() {
    Parts& parts = *parts_;
    {
        ncnn::Extractor extractor = parts.net.create_extractor();
        for (const auto& input : parts.inputs) extractor.input(input.index, input.mat);
        for (auto& output : parts.outputs) {
            const int code = extractor.extract(output.index, output.mat, output.kind);
            if (code == no_memory) throw std::bad_alloc();
            if (code != 0) throw VisitFailure("engine_error", "ncnn stopped with " + std::to_string(code));
        }
    }
    if (!parts.settled) {
        for (auto& output : parts.outputs) output.packed = output.mat.elempack != 1;
        parts.settled = true;
    }
    for (auto& output : parts.outputs)
        if (output.packed) ncnn::convert_packing(output.mat, output.plain, 1, parts.net.opt);
    refuse_if_late();
}

std::vector<Array> Session::outputs() const {
    std::vector<Array> found;
    for (const auto& output : parts_->outputs) found.push_back(as_array(output.packed ? output.plain : output.mat));
    return found;
}

std::string Session::computes_in() const {
    if (!parts_->net.opt.use_int8_inference) return "fp32";
    for (const std::string& line : layer_lines(parts_->model.param))
        if (is_int8(line)) return "int8";
    return "fp32";
}

bool processor_has_kernels() {
#if defined(__x86_64__)
    return ncnn::cpu_support_x86_avx() != 0;
#else
    return true;
#endif
}

std::string engine_version() { return BENCHFARM_NCNN_VERSION; }

struct Product::Parts {
    ncnn::Net net;
    ncnn::Mat left, right, product;
};

Product::Product(int64_t n, uint32_t seed) : parts_(new Parts) {
    static const char param[] = "7767517\n3 3\nInput a 0 1 a\nInput b 0 1 b\nGemm ab 2 1 a b ab\n";
    Opening opening;
    opening.beside_another = true;
    opening.precision = "fp32";
    set_options(parts_->net.opt, opening);
    static const unsigned char nothing[4] = {};
    if (parts_->net.load_param_mem(param) != 0 || parts_->net.load_model(nothing) != 0)
        throw LaunchFailure("engine_unavailable", "the canary does not run: ncnn takes no product");
    const size_t size = static_cast<size_t>(n * n);
    const std::vector<float> numbers = normal_floats(seed, 2 * size);
    const auto matrix = [&](const float* from) {
        Array array{"float32", {n, n}, {}};
        array.bytes.assign(reinterpret_cast<const char*>(from), reinterpret_cast<const char*>(from + size));
        return as_mat(array, array.shape, 1);
    };
    parts_->left = matrix(numbers.data());
    parts_->right = matrix(numbers.data() + size);
    run();
}

Product::~Product() = default;

void Product::run() {
    ncnn::Extractor extractor = parts_->net.create_extractor();
    extractor.input(0, parts_->left);
    extractor.input(1, parts_->right);
    if (extractor.extract(2, parts_->product) != 0)
        throw LaunchFailure("engine_unavailable", "the canary does not run: ncnn computes no product");
}

}  // namespace benchfarm
