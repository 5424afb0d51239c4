// References: archives as numpy.savez writes them, whose members are stored as they are.
#include <cstdint>
#include <cstring>
#include <ios>
#include <map>
#include <stdexcept>

#include "arrays.h"
#include "failures.h"
#include "sealed_file.h"

namespace benchfarm {
namespace {

struct Damaged {};

// Bounds-checked little-endian reading.
struct Bytes {
    const std::string& content;

    uint64_t at(size_t offset, size_t width) const {
        if (offset > content.size() || width > content.size() - offset) throw Damaged{};
        uint64_t value = 0;
        for (size_t number = width; number-- > 0;)
            value = value << 8 | static_cast<unsigned char>(content[offset + number]);
        return value;
    }

    std::string part(size_t offset, size_t length) const {
        if (offset > content.size() || length > content.size() - offset) throw Damaged{};
        return content.substr(offset, length);
    }
};

uint32_t checksum(const std::string& content) {
    static const std::vector<uint32_t> table = [] {
        std::vector<uint32_t> made(256);
        for (uint32_t number = 0; number < 256; ++number) {
            uint32_t value = number;
            for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
            made[number] = value;
        }
        return made;
    }();
    uint32_t value = ~0u;
    for (const char each : content) value = table[(value ^ static_cast<unsigned char>(each)) & 0xff] ^ value >> 8;
    return ~value;
}

// Members by name.
std::map<std::string, std::string> members(const std::string& content) {
    const Bytes bytes{content};
    const size_t end = content.rfind("PK\x05\x06");
    if (end == std::string::npos) throw Damaged{};
    const size_t count = bytes.at(end + 10, 2);
    size_t entry = bytes.at(end + 16, 4);
    std::map<std::string, std::string> found;
    for (size_t number = 0; number < count; ++number) {
        if (bytes.at(entry, 4) != 0x02014b50 || bytes.at(entry + 10, 2) != 0) throw Damaged{};
        const size_t name = bytes.at(entry + 28, 2), extra = bytes.at(entry + 30, 2), note = bytes.at(entry + 32, 2);
        const size_t size = bytes.at(entry + 24, 4), local = bytes.at(entry + 42, 4);
        const size_t begin = local + 30 + bytes.at(local + 26, 2) + bytes.at(local + 28, 2);
        std::string member = bytes.part(begin, size);
        if (checksum(member) != bytes.at(entry + 16, 4)) throw Damaged{};
        found[bytes.part(entry + 46, name)] = std::move(member);
        entry += 46 + name + extra + note;
    }
    return found;
}

std::string between(const std::string& text, const std::string& before, const std::string& after) {
    const size_t begin = text.find(before);
    if (begin == std::string::npos) throw Damaged{};
    const size_t end = text.find(after, begin + before.size());
    if (end == std::string::npos) throw Damaged{};
    return text.substr(begin + before.size(), end - begin - before.size());
}

Shape shape_of(const std::string& sizes) {
    Shape shape;
    for (size_t at = 0; at < sizes.size();) {
        const size_t digit = sizes.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        size_t used = 0;
        shape.push_back(std::stoll(sizes.substr(digit, 18), &used));
        at = digit + used;
    }
    return shape;
}

Array array_of(const std::string& member) {
    static const std::map<std::string, std::string> names{
        {"<f4", "float32"}, {"<f8", "float64"}, {"|i1", "int8"}, {"|u1", "uint8"},
        {"<i4", "int32"},   {"<i8", "int64"},   {"|b1", "bool"}};
    if (member.compare(0, 6, "\x93NUMPY") != 0) throw Damaged{};
    const Bytes bytes{member};
    const size_t width = bytes.at(6, 1) == 1 ? 2 : 4;
    const size_t length = bytes.at(8, width);
    const std::string header = bytes.part(8 + width, length);
    const auto name = names.find(between(header, "'descr': '", "'"));
    if (name == names.end() || header.find("'fortran_order': False") == std::string::npos) throw Damaged{};
    Array array{name->second, shape_of(between(header, "'shape': (", ")")), {}};
    const std::string data = bytes.part(8 + width + length, elements(array.shape) * item_bytes(array.dtype));
    array.bytes.assign(data.begin(), data.end());
    return array;
}

}  // namespace

std::vector<Array> load_reference(const std::string& path) {
    try {
        const std::map<std::string, std::string> found = members(read_file(path));
        std::vector<Array> arrays;
        for (size_t number = 0; number < found.size(); ++number)
            arrays.push_back(array_of(found.at("out" + std::to_string(number) + ".npy")));
        if (!arrays.empty()) return arrays;
    } catch (const Damaged&) {
    } catch (const std::logic_error&) {  // a name or a number that is none
    } catch (const std::ios_base::failure&) {
    }
    throw VisitFailure("engine_error", "the reference is no readable .npz of out0, out1, ...");
}

}  // namespace benchfarm
