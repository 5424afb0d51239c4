// How things end that cannot be measured: stable codes of the runner contract, with a text for people.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace benchfarm {

// One line of bounded length, as the contract carries texts for people.
std::string one_line(const std::string& text);

class Failure : public std::exception {
public:
    Failure(std::string code, const std::string& detail, const std::string& subject = "")
        : code(std::move(code)), detail(one_line(detail)), subject(one_line(subject).substr(0, 60)) {}
    const char* what() const noexcept override { return detail.c_str(); }

    const std::string code, detail, subject;
};

// A workload cannot be measured; the next visit goes on.
class VisitFailure : public Failure {
public:
    using Failure::Failure;
};

// The whole launch cannot go on.
class LaunchFailure : public Failure {
public:
    using Failure::Failure;
};

// The request is not what the contract says; the text names the place.
class BadRequest : public LaunchFailure {
public:
    explicit BadRequest(const std::string& detail) : LaunchFailure("bad_request", detail) {}
};

// The visit took longer than it may.
class TimedOut {};

}  // namespace benchfarm
