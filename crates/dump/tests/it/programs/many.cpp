// 64 threads, each 60 frames deep, and 64 MiB of heap; then one of them is told to abort.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

static std::atomic<int> ready{0};
static char *heap;

struct Visitor {
    virtual ~Visitor() = default;
    virtual int visit(int depth, const std::string &name) = 0;
};

static inline __attribute__((always_inline)) int park(int depth) {
    ready++;
    for (;;) pause();
    return depth;
}

struct Walker : Visitor {
    int visit(int depth, const std::string &name) override;
};

template <typename T> __attribute__((noinline)) int descend(Visitor &visitor, int depth, T extra) {
    volatile char room[64];
    room[depth % 64] = static_cast<char>(extra);
    return visitor.visit(depth - 1, "level " + std::to_string(depth)) + room[depth % 64];
}

int Walker::visit(int depth, const std::string &name) {
    if (depth <= 0) return park(depth) + static_cast<int>(name.size());
    if (depth % 2) return descend<long>(*this, depth, depth) + 1;
    return descend<int>(*this, depth, depth) + 1;
}

int main() {
    heap = static_cast<char *>(malloc(64 << 20));
    unsigned seed = 1;
    for (size_t at = 0; at < (64 << 20); at += 64) {
        seed = seed * 1103515245 + 12345;
        heap[at] = static_cast<char>(seed >> 16);
    }
    std::vector<std::thread> threads;
    for (int number = 0; number < 64; number++)
        threads.emplace_back([] { Walker walker; walker.visit(28, "start"); });
    while (ready < 64) usleep(1000);
    usleep(20000);
    abort();
}
