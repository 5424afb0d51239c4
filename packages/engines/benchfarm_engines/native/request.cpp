#include "request.h"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "failures.h"

namespace benchfarm {
namespace {

const std::set<std::string> dtypes{"float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool"};
const std::set<std::string> purposes{"latency", "memory", "profile"};
constexpr int max_dimensions = 8;
constexpr int64_t max_exact = int64_t{1} << 53;

// Typed access to a JSON object; the errors name the place.
class Reader {
public:
    Reader(const Json* document, std::string place) : place_(std::move(place)) {
        if (document == nullptr || !document->is(Json::Kind::object)) throw BadRequest(place_ + " is not an object");
        object_ = document;
    }

    bool has(const std::string& key) const {
        const Json* found = object_->find(key);
        return found != nullptr && !found->is(Json::Kind::null);
    }

    const Json* find(const std::string& key) const { return object_->find(key); }
    const Json& document() const { return *object_; }
    const std::string& place() const { return place_; }
    std::string at(const std::string& key) const { return place_ + "." + key; }

    std::string text(const std::string& key) const { return text_of(find(key), at(key), "a text"); }

    std::vector<std::string> texts(const std::string& key) const {
        std::vector<std::string> found;
        for (const Json& each : list(key)) found.push_back(text_of(&each, at(key), "a list of texts"));
        return found;
    }

    int64_t whole(const std::string& key, int64_t low, int64_t high) const {
        return whole_of(find(key), at(key), low, high);
    }

    std::vector<int64_t> wholes(const std::string& key, int64_t low, int64_t high) const {
        std::vector<int64_t> found;
        for (const Json& each : list(key)) found.push_back(whole_of(&each, at(key), low, high));
        return found;
    }

    bool flag(const std::string& key) const {
        const Json* found = find(key);
        if (found == nullptr) return false;
        if (!found->is(Json::Kind::boolean)) throw BadRequest(at(key) + " is not true or false");
        return found->boolean;
    }

    double number(const std::string& key) const {
        const Json* found = find(key);
        const bool numeric = found != nullptr && (found->is(Json::Kind::whole) || found->is(Json::Kind::number));
        const double value = !numeric ? 0 : found->is(Json::Kind::whole) ? double(found->whole) : found->number;
        if (!(value > 0 && value < 1.7e308)) throw BadRequest(at(key) + " is not a positive number");
        return value;
    }

    Reader object(const std::string& key) const { return Reader(find(key), at(key)); }

    std::vector<Reader> objects(const std::string& key) const {
        std::vector<Reader> found;
        for (const Json& each : list(key))
            found.emplace_back(&each, at(key) + "[" + std::to_string(found.size()) + "]");
        return found;
    }

private:
    const std::vector<Json>& list(const std::string& key) const {
        const Json* found = find(key);
        if (found == nullptr || !found->is(Json::Kind::list)) throw BadRequest(at(key) + " is not a list");
        return found->list;
    }

    static std::string text_of(const Json* value, const std::string& place, const char* what) {
        if (value == nullptr || !value->is(Json::Kind::text) || value->text.empty())
            throw BadRequest(place + " is not " + what);
        return value->text;
    }

    static int64_t whole_of(const Json* value, const std::string& place, int64_t low, int64_t high) {
        if (value == nullptr || !value->is(Json::Kind::whole) || value->whole < low || value->whole > high)
            throw BadRequest(place + " is not a whole number from " + std::to_string(low) + " to " +
                             std::to_string(high));
        return value->whole;
    }

    const Json* object_ = nullptr;
    std::string place_;
};

std::string dtype_of(const Reader& reader) {
    const std::string dtype = reader.text("dtype");
    if (dtypes.count(dtype) == 0)
        throw BadRequest(reader.at("dtype") + ": there is no dtype '" + dtype.substr(0, 40) + "'");
    return dtype;
}

Fill read_fill(const Reader& reader) {
    const std::string kind = reader.text("kind");
    if (kind != "normal" && kind != "ints")
        throw BadRequest(reader.at("kind") + ": there is no fill '" + kind.substr(0, 40) + "'");
    Fill fill;
    fill.normal = kind == "normal";
    fill.seed = static_cast<uint32_t>(reader.whole("seed", 0, UINT32_MAX));
    if (!fill.normal) fill.below = reader.whole("below", 1, INT32_MAX);
    return fill;
}

InputSpec read_input(const Reader& reader) {
    InputSpec spec{reader.text("name"), dtype_of(reader), reader.wholes("shape", 0, int64_t{1} << 31), {}};
    if (spec.shape.size() > max_dimensions) throw BadRequest(reader.at("shape") + " has more than 8 dimensions");
    spec.fill = read_fill(reader.object("fill"));
    return spec;
}

std::vector<InputSpec> read_inputs(const Reader& reader) {
    std::vector<InputSpec> specs;
    for (const Reader& each : reader.objects("inputs")) specs.push_back(read_input(each));
    return specs;
}

Edge read_edge(const Reader& reader) {
    Edge edge;
    edge.dtype = dtype_of(reader);
    edge.name = reader.text("name");
    edge.axes = reader.wholes("axes", 0, max_dimensions - 1);
    edge.shape = reader.wholes("shape", 0, int64_t{1} << 31);
    const Json* scale = reader.find("scale");
    const bool none = scale == nullptr || scale->is(Json::Kind::null) || (scale->is(Json::Kind::whole) && !scale->whole) ||
                      (scale->is(Json::Kind::number) && scale->number == 0);
    edge.scale = none ? 0 : reader.number("scale");
    edge.zero_point = reader.whole("zero_point", -(1 << 15), 1 << 16);
    return edge;
}

std::optional<Edges> read_edges(const Reader& reader) {
    if (!reader.has("edges")) return std::nullopt;
    const Reader both = reader.object("edges");
    Edges edges;
    for (const Reader& each : both.objects("inputs")) edges.inputs.push_back(read_edge(each));
    for (const Reader& each : both.objects("outputs")) edges.outputs.push_back(read_edge(each));
    return edges;
}

std::vector<int64_t> read_sites(const Reader& reader, int64_t own) {
    const Json* given = reader.find("sites");
    if (given == nullptr || given->is(Json::Kind::null) || (given->is(Json::Kind::list) && given->list.empty()))
        return {};
    std::vector<int64_t> numbers;
    std::set<std::string> names;
    const auto sites = reader.objects("sites");
    for (const Reader& site : sites) {
        names.insert(site.text("name"));
        if (site.has("visit")) numbers.push_back(site.whole("visit", 0, max_exact));
    }
    const std::set<int64_t> different(numbers.begin(), numbers.end());
    if (names.size() < sites.size() || different.size() < numbers.size() || numbers.empty() || numbers[0] != own)
        throw BadRequest(reader.at("sites") +
                         ": names and visits are given once each, the carrier's own visit first");
    return numbers;
}

// number: of the a side, for the b side of its pair.
Visit read_visit(const Reader& reader, std::optional<int64_t> number = std::nullopt) {
    Visit visit;
    visit.number = number ? *number : reader.whole("visit", 0, max_exact);
    visit.artifact = reader.text("artifact");
    visit.format = reader.text("format");
    visit.inputs = read_inputs(reader);
    visit.edges = read_edges(reader);
    for (const Reader& each : reader.objects("gates"))
        visit.gates.push_back({each.text("reference"), each.number("max_relative_l2")});
    if (visit.gates.empty()) throw BadRequest(reader.at("gates") + " is empty: nothing is measured unchecked");
    if (reader.has("beside")) {
        const Reader other = reader.object("beside");
        if (number || other.has("beside")) throw BadRequest(other.at("beside") + ": a pair does not nest");
        visit.beside = std::make_shared<Beside>();
        visit.beside->visit = read_visit(other, visit.number);
        if (other.has("precision")) visit.beside->precision = other.text("precision");
        if (other.has("options")) visit.beside->options = other.object("options").document();
        visit.beside->opens_first = other.flag("opens_first");
    }
    visit.site_visits = read_sites(reader, visit.number);
    return visit;
}

Limits read_limits(const Reader& reader) {
    Limits limits;
    limits.memory_bytes = reader.whole("memory_bytes", 1, int64_t{1} << 62);
    limits.cpu_s = reader.whole("cpu_s", 1, 10'000'000);
    limits.readable = reader.texts("readable");
    limits.writable = reader.texts("writable");
    limits.network = reader.flag("network");
    limits.strict = reader.flag("strict");
    if (reader.has("uid")) limits.uid = reader.whole("uid", 0, int64_t{UINT32_MAX} - 1);
    if (reader.has("gid")) limits.gid = reader.whole("gid", 0, int64_t{UINT32_MAX} - 1);
    return limits;
}

Protocol read_protocol(const Reader& reader) {
    Protocol protocol;
    protocol.block_min_us = reader.whole("block_min_us", 1, 10'000'000);
    protocol.visit_ms = reader.whole("visit_ms", 1, 1'000'000);
    protocol.blocks_min = reader.whole("blocks_min", 1, 100'000);
    protocol.blocks_max = reader.whole("blocks_max", 1, 100'000);
    protocol.warmup_min_runs = reader.whole("warmup_min_runs", 1, 100'000);
    protocol.warmup_min_ms = reader.whole("warmup_min_ms", 0, 1'000'000);
    protocol.canary_every_ms = reader.whole("canary_every_ms", 1, 1'000'000);
    if (reader.has("clock_every_ms")) protocol.clock_every_ms = reader.whole("clock_every_ms", 1, 1'000'000);
    protocol.visit_timeout_s = reader.number("visit_timeout_s");
    protocol.purpose = reader.find("purpose") == nullptr ? "latency" : reader.text("purpose");
    if (purposes.count(protocol.purpose) == 0)
        throw BadRequest(reader.at("purpose") + " is none of latency, memory, profile");
    return protocol;
}

CanaryRequest read_canaries(const Reader& reader) {
    const Reader sgemm = reader.object("sgemm"), model = reader.object("mobilenet");
    CanaryRequest canaries;
    canaries.sgemm_n = sgemm.whole("n", 8, 4096);
    canaries.sgemm_seed = static_cast<uint32_t>(sgemm.whole("seed", 0, UINT32_MAX));
    canaries.artifact = model.text("artifact");
    canaries.inputs = read_inputs(model);
    canaries.edges = read_edges(model);
    return canaries;
}

bool flag_option(const Json& value, const std::string& name) {
    if (!value.is(Json::Kind::boolean)) throw BadRequest("option " + name + " is true or false");
    return value.boolean;
}

}  // namespace

LaunchRequest read_launch_request(const std::string& text) {
    Json document;
    try {
        document = parse_json(text.data(), text.data() + text.size());
    } catch (const std::invalid_argument&) {
        throw BadRequest("the request is not JSON");
    }
    const Reader root(&document, "request");
    if (root.whole("contract", 0, 1000) != contract)
        throw BadRequest("this runner speaks contract " + std::to_string(contract));
    LaunchRequest request;
    request.engine = root.text("engine");
    request.precision = root.text("precision");
    request.threads = static_cast<int>(root.whole("threads", 1, 4096));
    for (const int64_t core : root.wholes("cores", 0, 4095)) request.cores.push_back(static_cast<int>(core));
    request.options = root.object("options").document();
    request.limits = read_limits(root.object("limits"));
    request.protocol = read_protocol(root.object("protocol"));
    request.canaries = read_canaries(root.object("canaries"));
    for (const Reader& each : root.objects("visits")) request.visits.push_back(read_visit(each));
    request.asks_precision = root.flag("asks_precision");
    return request;
}

Options read_options(const Json& given) {
    Options options;
    for (const auto& [name, value] : given.fields) {
        if (name == "winograd") {
            options.winograd = flag_option(value, name);
        } else if (name == "packing") {
            options.packing = flag_option(value, name);
        } else if (name == "edges") {  // this one and the next decide how a file was made, not how it runs
            if (!value.is(Json::Kind::text) || (value.text != "int8" && value.text != "fp32"))
                throw BadRequest("option edges is int8 or fp32");
        } else if (name == "calibration_seed") {
            if (!value.is(Json::Kind::whole) || value.whole < 0 || value.whole > 1 << 16)
                throw BadRequest("option calibration_seed is a whole number from 0 to 65536");
        } else {
            throw BadRequest("the engine has no option '" + name.substr(0, 60) + "'");
        }
    }
    return options;
}

std::string options_schema() {
    JsonText schema;
    schema.open('{');
    const auto option = [&](const char* name, const char* kind, const char* meaning) -> JsonText& {
        schema.key(name).open('{');
        return schema.field("kind", kind).field("meaning", meaning);
    };
    option("winograd", "switch", "3x3 convolutions by Winograd's algorithm").field("default", true).close('}');
    option("packing", "switch", "channels interleaved by 4, 8 or 16 inside").field("default", true).close('}');
    option("edges", "choice", "what an int8 model takes and gives: int8 itself, or fp32 that it quantises first")
        .field("default", "int8").key("choices").open('[').value("int8").value("fp32").close(']').close('}');
    option("calibration_seed", "number", "seed of the inputs that int8 ranges are learnt from")
        .field("default", 0).field("low", 0).field("high", 1 << 16).close('}');
    return schema.close('}').text();
}

}  // namespace benchfarm
