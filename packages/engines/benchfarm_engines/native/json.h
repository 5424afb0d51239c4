// JSON as the runner contract uses it: a strict, bounded reader and a writer.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace benchfarm {

struct Json {
    enum class Kind { null, boolean, whole, number, text, list, object };
    Kind kind = Kind::null;
    bool boolean = false;
    int64_t whole = 0;
    double number = 0;  // of a whole number too
    std::string text;
    std::vector<Json> list;
    std::map<std::string, Json> fields;

    bool is(Kind wanted) const { return kind == wanted; }
    const Json* find(const std::string& key) const;
};

// Throws std::invalid_argument for anything that is not one JSON document of at most 64 levels.
Json parse_json(const char* begin, const char* end);

// Builds one JSON object or list as text.
class JsonText {
public:
    JsonText& open(char bracket);
    JsonText& close(char bracket);
    JsonText& key(const std::string& name);
    JsonText& value(const std::string& text);
    JsonText& value(const char* text) { return value(std::string(text)); }
    JsonText& value(int64_t whole);
    JsonText& value(int whole) { return value(static_cast<int64_t>(whole)); }
    JsonText& value(size_t whole) { return value(static_cast<int64_t>(whole)); }
    JsonText& value(double number);
    JsonText& value(bool boolean);
    JsonText& null();
    JsonText& raw(const std::string& json);
    template <class Items>
    JsonText& items(const Items& all) {
        open('[');
        for (const auto& each : all) value(each);
        return close(']');
    }
    template <class Value>
    JsonText& field(const std::string& name, const Value& content) {
        key(name);
        return value(content);
    }
    const std::string& text() const { return text_; }

private:
    void separate();

    std::string text_;
    bool first_ = true;
};

}  // namespace benchfarm
