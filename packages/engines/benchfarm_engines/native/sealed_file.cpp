#include "sealed_file.h"

#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <ios>
#include <stdexcept>
#include <utility>

#include "failures.h"

namespace benchfarm {
namespace {

constexpr char magic[] = "BFSEAL1\n";
constexpr size_t magic_bytes = 8, digest_bytes = 32, length_bytes = 8;
constexpr size_t tail_bytes = length_bytes + digest_bytes + magic_bytes;

// SHA-256 (FIPS 180-4).
class Sha256 {
public:
    std::string of(const char* data, size_t size) {
        const auto* bytes = reinterpret_cast<const unsigned char*>(data);
        size_t at = 0;
        for (; at + 64 <= size; at += 64) block(bytes + at);
        unsigned char last[128] = {};
        const size_t rest = size - at, padded = rest < 56 ? 64 : 128;
        std::memcpy(last, bytes + at, rest);
        last[rest] = 0x80;
        const uint64_t bits = uint64_t{size} * 8;
        for (size_t number = 0; number < 8; ++number)
            last[padded - 1 - number] = static_cast<unsigned char>(bits >> 8 * number);
        for (size_t begin = 0; begin < padded; begin += 64) block(last + begin);
        std::string digest;
        for (const uint32_t word : state_)
            for (int shift = 24; shift >= 0; shift -= 8) digest += static_cast<char>(word >> shift);
        return digest;
    }

private:
    static uint32_t turn(uint32_t word, int by) { return word >> by | word << (32 - by); }

    void block(const unsigned char* data) {
        static const uint32_t keys[64] = {
            0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
            0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
            0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
            0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
            0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
            0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
            0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
            0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
        uint32_t words[64];
        for (int number = 0; number < 16; ++number)
            words[number] = uint32_t{data[4 * number]} << 24 | uint32_t{data[4 * number + 1]} << 16 |
                            uint32_t{data[4 * number + 2]} << 8 | data[4 * number + 3];
        for (int number = 16; number < 64; ++number) {
            const uint32_t early = words[number - 15], late = words[number - 2];
            words[number] = words[number - 16] + words[number - 7] + (turn(early, 7) ^ turn(early, 18) ^ early >> 3) +
                            (turn(late, 17) ^ turn(late, 19) ^ late >> 10);
        }
        uint32_t s[8];
        std::memcpy(s, state_, sizeof s);
        for (int number = 0; number < 64; ++number) {
            const uint32_t first = s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) +
                                   ((s[4] & s[5]) ^ (~s[4] & s[6])) + keys[number] + words[number];
            const uint32_t second =
                (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            for (int place = 7; place > 0; --place) s[place] = s[place - 1];
            s[4] += first;
            s[0] = first + second;
        }
        for (int number = 0; number < 8; ++number) state_[number] += s[number];
    }

    uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
};

VisitFailure invalid(const std::string& detail) { return VisitFailure("invalid_workload", detail); }

const Json& need(const Json& object, const char* key, Json::Kind kind) {
    const Json* found = object.find(key);
    if (found == nullptr || !found->is(kind)) throw invalid("the file is no ncnn artifact");
    return *found;
}

std::vector<Blob> blobs(const Json& document, const char* side) {
    std::vector<Blob> found;
    for (const Json& each : need(document, side, Json::Kind::list).list) {
        Blob blob{need(each, "name", Json::Kind::text).text, need(each, "dtype", Json::Kind::text).text, {}};
        for (const Json& size : need(each, "shape", Json::Kind::list).list) {
            if (!size.is(Json::Kind::whole)) throw invalid("the file is no ncnn artifact");
            blob.shape.push_back(size.whole);
        }
        found.push_back(std::move(blob));
    }
    return found;
}

// Where the document lies in a whole file, checked.
std::pair<size_t, size_t> document_of(const std::string& content) {
    if (content.size() < tail_bytes || content.compare(content.size() - magic_bytes, magic_bytes, magic) != 0)
        throw invalid("the file was not made by this farm's converter, or is cut");
    const size_t end = content.size() - tail_bytes, digest_at = end + length_bytes;
    if (Sha256().of(content.data(), digest_at) != content.substr(digest_at, digest_bytes))
        throw invalid("the file is damaged: its checksum does not fit");
    uint64_t length = 0;
    for (size_t number = length_bytes; number-- > 0;)
        length = length << 8 | static_cast<unsigned char>(content[end + number]);
    if (length > end) throw invalid("the file is no ncnn artifact");
    return {end - length, end};
}

}  // namespace

std::string read_file(const std::string& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) throw std::ios_base::failure("no file");
    std::ifstream file;
    file.exceptions(std::ios::failbit | std::ios::badbit);
    file.open(path, std::ios::binary);
    std::string content(static_cast<size_t>(status.st_size), '\0');
    file.read(content.data(), static_cast<std::streamsize>(content.size()));
    return content;
}

Model read_artifact(const std::string& path) {
    std::string content;
    try {
        content = read_file(path);
    } catch (const std::ios_base::failure&) {
        throw VisitFailure("engine_error", "the model cannot be read");
    }
    const auto [begin, end] = document_of(content);
    try {
        const Json document = parse_json(content.data() + begin, content.data() + end);
        Model model{need(document, "param", Json::Kind::text).text, blobs(document, "inputs"),
                    blobs(document, "outputs"), 1};
        model.batch = static_cast<int>(need(document, "batch", Json::Kind::whole).whole);
        if (model.batch < 1 || model.batch > 1 << 20) throw invalid("the file is no ncnn artifact");
        return model;
    } catch (const std::invalid_argument&) {
        throw invalid("the file is no ncnn artifact");
    }
}

}  // namespace benchfarm
