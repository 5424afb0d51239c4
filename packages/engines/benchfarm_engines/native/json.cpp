#include "json.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace benchfarm {
namespace {

constexpr int max_depth = 64;

class Parser {
public:
    Parser(const char* begin, const char* end) : at_(begin), end_(end) {}

    Json document() {
        Json found = value(0);
        space();
        if (at_ != end_) fail();
        return found;
    }

private:
    [[noreturn]] static void fail() { throw std::invalid_argument("not JSON"); }

    char peek() const { return at_ == end_ ? '\0' : *at_; }

    void space() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
    }

    void expect(const char* word) {
        const size_t length = std::strlen(word);
        if (static_cast<size_t>(end_ - at_) < length || std::memcmp(at_, word, length) != 0) fail();
        at_ += length;
    }

    Json value(int depth) {
        if (depth > max_depth) fail();
        space();
        Json found;
        switch (peek()) {
            case '{': return object(depth);
            case '[': return list(depth);
            case '"': found.kind = Json::Kind::text; found.text = text(); return found;
            case 't': expect("true"); found.kind = Json::Kind::boolean; found.boolean = true; return found;
            case 'f': expect("false"); found.kind = Json::Kind::boolean; return found;
            case 'n': expect("null"); return found;
            default: return number();
        }
    }

    Json object(int depth) {
        Json found;
        found.kind = Json::Kind::object;
        expect("{");
        space();
        if (peek() == '}') { ++at_; return found; }
        while (true) {
            space();
            std::string name = text();
            space();
            expect(":");
            found.fields[std::move(name)] = value(depth + 1);
            space();
            if (peek() != ',') break;
            ++at_;
        }
        expect("}");
        return found;
    }

    Json list(int depth) {
        Json found;
        found.kind = Json::Kind::list;
        expect("[");
        space();
        if (peek() == ']') { ++at_; return found; }
        while (true) {
            found.list.push_back(value(depth + 1));
            space();
            if (peek() != ',') break;
            ++at_;
        }
        expect("]");
        return found;
    }

    Json number() {
        const char* begin = at_;
        bool whole = true;
        if (peek() == '-') ++at_;
        if (peek() == '0') ++at_;
        else digits();
        if (peek() == '.') { whole = false; ++at_; digits(); }
        if (peek() == 'e' || peek() == 'E') {
            whole = false;
            ++at_;
            if (peek() == '+' || peek() == '-') ++at_;
            digits();
        }
        const std::string word(begin, at_);
        Json found;
        found.kind = Json::Kind::number;
        found.number = std::strtod(word.c_str(), nullptr);
        if (whole && word.size() <= 18) {
            found.kind = Json::Kind::whole;
            found.whole = std::strtoll(word.c_str(), nullptr, 10);
        }
        return found;
    }

    void digits() {
        if (peek() < '0' || peek() > '9') fail();
        while (peek() >= '0' && peek() <= '9') ++at_;
    }

    unsigned hex4() {
        unsigned code = 0;
        for (int number = 0; number < 4; ++number) {
            const char digit = peek();
            if (digit >= '0' && digit <= '9') code = code * 16 + static_cast<unsigned>(digit - '0');
            else if (digit >= 'a' && digit <= 'f') code = code * 16 + static_cast<unsigned>(digit - 'a' + 10);
            else if (digit >= 'A' && digit <= 'F') code = code * 16 + static_cast<unsigned>(digit - 'A' + 10);
            else fail();
            ++at_;
        }
        return code;
    }

    static void append(std::string& out, unsigned code) {
        if (code < 0x80) {
            out += static_cast<char>(code);
        } else if (code < 0x800) {
            out += static_cast<char>(0xC0 | code >> 6);
            out += static_cast<char>(0x80 | (code & 0x3F));
        } else if (code < 0x10000) {
            out += static_cast<char>(0xE0 | code >> 12);
            out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
            out += static_cast<char>(0x80 | (code & 0x3F));
        } else {
            out += static_cast<char>(0xF0 | code >> 18);
            out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
            out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
            out += static_cast<char>(0x80 | (code & 0x3F));
        }
    }

    void escape(std::string& out) {
        static const char* const from = "\"\\/bfnrt";
        static const char* const to = "\"\\/\b\f\n\r\t";
        const char kind = peek();
        ++at_;
        if (const char* found = kind == '\0' ? nullptr : std::strchr(from, kind)) {
            out += to[found - from];
            return;
        }
        if (kind != 'u') fail();
        unsigned code = hex4();
        if (code >= 0xD800 && code < 0xDC00) {
            expect("\\u");
            const unsigned low = hex4();
            if (low < 0xDC00 || low >= 0xE000) fail();
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code < 0xE000) {
            fail();
        }
        append(out, code);
    }

    std::string text() {
        expect("\"");
        std::string out;
        while (true) {
            if (at_ == end_) fail();
            const char next = *at_;
            if (next == '"') { ++at_; return out; }
            if (static_cast<unsigned char>(next) < 0x20) fail();
            ++at_;
            if (next != '\\') { out += next; continue; }
            if (at_ == end_) fail();
            escape(out);
        }
    }

    const char* at_;
    const char* end_;
};

}  // namespace

const Json* Json::find(const std::string& key) const {
    const auto found = fields.find(key);
    return found == fields.end() ? nullptr : &found->second;
}

Json parse_json(const char* begin, const char* end) { return Parser(begin, end).document(); }

void JsonText::separate() {
    if (!first_) text_ += ',';
    first_ = false;
}

JsonText& JsonText::open(char bracket) {
    separate();
    text_ += bracket;
    first_ = true;
    return *this;
}

JsonText& JsonText::close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
}

JsonText& JsonText::key(const std::string& name) {
    value(name);
    text_ += ':';
    first_ = true;
    return *this;
}

JsonText& JsonText::value(const std::string& text) {
    separate();
    text_ += '"';
    for (const char each : text) {
        const auto code = static_cast<unsigned char>(each);
        if (each == '"' || each == '\\') {
            text_ += '\\';
            text_ += each;
        } else if (code < 0x20) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", code);
            text_ += escaped;
        } else {
            text_ += code < 0x7F ? each : '?';  // what is written here is the runner's own plain English
        }
    }
    text_ += '"';
    return *this;
}

JsonText& JsonText::value(int64_t whole) {
    separate();
    text_ += std::to_string(whole);
    return *this;
}

JsonText& JsonText::value(double number) {
    separate();
    char digits[40];
    std::snprintf(digits, sizeof digits, "%.17g", number);
    text_ += std::isfinite(number) ? digits : "null";
    return *this;
}

JsonText& JsonText::value(bool boolean) {
    separate();
    text_ += boolean ? "true" : "false";
    return *this;
}

JsonText& JsonText::null() {
    separate();
    text_ += "null";
    return *this;
}

JsonText& JsonText::raw(const std::string& json) {
    separate();
    text_ += json;
    return *this;
}

}  // namespace benchfarm
