// What ncnn and its headers ask for memory where the C library is zig's (`native_compilers.py`): large pieces are kept
// when they are freed. A run makes its outputs anew, that library gives such pieces back to the kernel at once, and then
// every run pays for every page again, several times what a kernel takes that only moves memory. glibc beneath ncnn's
// Python package keeps them, and so do the libraries of boards.
#include "heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t least_bytes = 16 * 1024;            // the library keeps smaller ones itself
constexpr size_t most_bytes = 32 * 1024 * 1024;      // larger ones go back, as glibc has it
constexpr size_t kept_most_bytes = 64 * 1024 * 1024;
constexpr size_t page_bytes = 4096;
constexpr size_t offset_bytes = 64;  // of what is handed out within its first page: a line of the caches

struct Piece {
    void* base;
    size_t bytes;
};

class Heap {
public:
    void* take(size_t wanted) {
        const size_t bytes = (wanted + offset_bytes + page_bytes - 1) / page_bytes * page_bytes;
        const std::lock_guard<std::mutex> alone(mutex_);
        Piece piece = fitting(bytes);
        if (piece.base == nullptr) piece = mapped(bytes);
        if (piece.base == nullptr) {
            drop();
            piece = mapped(bytes);
        }
        if (piece.base == nullptr) return nullptr;
        char* given = static_cast<char*>(piece.base) + offset_bytes;
        try {
            in_use_.emplace(given, piece);
            kept_.reserve(in_use_.size() + kept_.size());  // so that giving back needs no memory
        } catch (const std::bad_alloc&) {
            in_use_.erase(given);
            munmap(piece.base, piece.bytes);
            return nullptr;
        }
        return given;
    }

    // Whether the memory was from here.
    bool give(void* given) {
        if (reinterpret_cast<uintptr_t>(given) % page_bytes != offset_bytes) return false;
        const std::lock_guard<std::mutex> alone(mutex_);
        const auto found = in_use_.find(given);
        if (found == in_use_.end()) return false;
        const Piece piece = found->second;
        in_use_.erase(found);
        if (piece.bytes > most_bytes) {
            munmap(piece.base, piece.bytes);
            return true;
        }
        kept_.push_back(piece);
        kept_bytes_ += piece.bytes;
        while (kept_bytes_ > kept_most_bytes) {
            munmap(kept_.front().base, kept_.front().bytes);
            kept_bytes_ -= kept_.front().bytes;
            kept_.erase(kept_.begin());
        }
        return true;
    }

    void drop_all() {
        const std::lock_guard<std::mutex> alone(mutex_);
        drop();
    }

private:
    static Piece mapped(size_t bytes) {
        void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return base == MAP_FAILED ? Piece{nullptr, 0} : Piece{base, bytes};
    }

    void drop() {
        for (const Piece& piece : kept_) munmap(piece.base, piece.bytes);
        kept_.clear();
        kept_bytes_ = 0;
    }

    // The smallest kept piece that is large enough and wastes no more than a quarter; of those the one used last.
    Piece fitting(size_t bytes) {
        auto best = kept_.end();
        for (auto each = kept_.begin(); each != kept_.end(); ++each) {
            const bool fits = each->bytes >= bytes && each->bytes <= bytes + bytes / 4;
            if (fits && (best == kept_.end() || each->bytes <= best->bytes)) best = each;
        }
        if (best == kept_.end()) return {nullptr, 0};
        const Piece piece = *best;
        kept_.erase(best);
        kept_bytes_ -= piece.bytes;
        return piece;
    }

    std::mutex mutex_;
    std::unordered_map<void*, Piece> in_use_;
    std::vector<Piece> kept_;
    size_t kept_bytes_ = 0;
};

// Never destroyed: nets may outlive what ends with the process.
Heap& heap() {
    static Heap* const one = new Heap;
    return *one;
}

}  // namespace

namespace benchfarm {

void drop_kept_memory() { heap().drop_all(); }

}  // namespace benchfarm

extern "C" {

void* benchfarm_malloc(size_t bytes) {
    if (bytes < least_bytes || bytes > SIZE_MAX / 2) return malloc(bytes);
    void* given = heap().take(bytes);
    if (given == nullptr) errno = ENOMEM;
    return given;
}

int benchfarm_posix_memalign(void** given, size_t alignment, size_t bytes) {
    if (bytes < least_bytes || bytes > SIZE_MAX / 2 || alignment > offset_bytes)
        return posix_memalign(given, alignment, bytes);
    void* found = heap().take(bytes);
    if (found == nullptr) return ENOMEM;
    *given = found;
    return 0;
}

void benchfarm_free(void* given) {
    if (!heap().give(given)) free(given);
}

}
