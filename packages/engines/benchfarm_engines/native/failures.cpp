#include "failures.h"

namespace benchfarm {

std::string one_line(const std::string& text) {
    std::string line;
    for (const char each : text) {
        const bool space = each == ' ' || (each >= '\t' && each <= '\r');
        if (space && (line.empty() || line.back() == ' ')) continue;
        line += space ? ' ' : each;
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    return line.substr(0, 300);
}

}  // namespace benchfarm
