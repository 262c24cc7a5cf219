// A program with many defects, each reachable by several ways, that tells its stack when it dies of one.
//
// `many_bugs` runs every defect by every way in a child, and writes for each `bug N way M signal S` and then a line per
// frame: `module offset`, with `*` before the one that a signal interrupted. VERSION 2 is the same program a release later:
// layers added, functions renamed and split, helpers moved.
#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#ifndef VERSION
#define VERSION 1
#endif

static char *volatile nowhere = nullptr;
static volatile int zero = 0;
static volatile int sink = 0;

// What many defects share.
static int read_cell(const char *cell) { return cell[8]; }
static void put_bytes(char *into, const char *from, size_t count) { memcpy(into, from, count); }
__attribute__((noinline)) static void check_failed(const char *what) {
    fprintf(stderr, "%s\n", what);
    abort();
}
#define CHECK(condition) ((condition) ? (void)0 : check_failed("check failed: " #condition))
static char *row_at(char *rows, int row) { return rows + row * 64; }

namespace config {
#if VERSION == 2
static int read_digit(const char *text) { return text[0] - '0'; }
static int to_number(const char *text) { return read_digit(text) * 10 + sink; }
#else
static int to_number(const char *text) { return (text[0] - '0') * 10 + sink; }
#endif
static int parse_value(const char *line) { return to_number(line ? line : nowhere) + 1; }
__attribute__((noinline)) static int parse_section(const char *text) {
    int sum = 0;
    for (int line = 0; line < 3; line++) sum += parse_value(line == 2 ? nowhere : text);
    return sum;
}
int load() { return parse_section("12"); }
static void write_value(const char *value) { put_bytes(nowhere, value, size_t(8 + sink)); }
__attribute__((noinline)) static void write_section(const char *name) { write_value(name); sink = sink + 1; }
int save() { write_section("sectionname"); return 0; }
}  // namespace config

namespace session {
struct Session {
    int number = 0;
    __attribute__((noinline)) int lookup_user(const char *users) { return read_cell(users) + number; }
    int authenticate() { return lookup_user(nowhere) + 1; }
#if VERSION == 2
    __attribute__((noinline)) int open_checked() { number = 2; return authenticate() * 2; }
    int open() { return open_checked() + 1; }
#else
    __attribute__((noinline)) int open() { number = 1; return authenticate() * 2; }
#endif
    __attribute__((noinline)) void flush() { put_bytes(nowhere + 16, "bye bye bye", size_t(9 + sink)); sink = 3; }
    __attribute__((noinline)) int close() { flush(); return sink; }
};
}  // namespace session

namespace cache {
template <class Key> struct Cache {
    __attribute__((noinline)) int find_bucket(Key key) { return read_cell(nowhere + key % 3); }
    int get(Key key) { return find_bucket(key) + 1; }
    __attribute__((noinline)) void unlink(Key key) { sink = read_cell(nowhere + key % 5) + 1; }
    __attribute__((noinline)) int evict(Key key) { unlink(key); return sink; }
};
}  // namespace cache

namespace query {
struct Plan { const char *name; int cost; };
static bool is_cheaper(const Plan &one, const Plan &other) { return read_cell(one.name) < read_cell(other.name); }
__attribute__((noinline)) int plan() {
    std::vector<Plan> plans(5, Plan{nowhere, 1});
    std::sort(plans.begin(), plans.end(), is_cheaper);
    return plans[0].cost;
}
struct Executor {
    virtual ~Executor() = default;
    virtual int next_row() = 0;
    int run() { int sum = 0; while (sum < 10) sum += next_row(); return sum; }
};
struct Scan : Executor {
    __attribute__((noinline)) void decode_row() { put_bytes(nowhere, "rowrowrow", size_t(7 + sink)); sink = 4; }
    int next_row() override { decode_row(); return sink; }
};
__attribute__((noinline)) int run() { Scan scan; Executor *volatile executor = &scan; return executor->run() + 1; }
}  // namespace query

namespace pages {
struct Key { const char *text; };
struct Less { bool operator()(const Key &one, const Key &other) const { return one.text[4] < other.text[4]; } };
__attribute__((noinline)) int build() {
    std::map<Key, int, Less> pages;
    pages[Key{nowhere}] = 1;
    pages[Key{nowhere}] = 2;
    return int(pages.size());
}
__attribute__((noinline)) static void release_page(void *volatile page) { free(page); sink = 1; }
__attribute__((noinline)) int drop() {
    void *volatile page = malloc(100);
    release_page(page);
    release_page(page);
    return 1;
}
}  // namespace pages

namespace logs {
static char line[256];
__attribute__((noinline)) static void format_line(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    sink = line[0];
}
__attribute__((noinline)) int append() { format_line("%d: %s\n", 12, nowhere + 1); return sink; }
#if VERSION == 2
__attribute__((noinline)) static void rename_old() { CHECK(sink > 100); sink = 2; }
__attribute__((noinline)) int rotate() { rename_old(); return sink; }
#else
__attribute__((noinline)) int rotate() { CHECK(sink > 100); return sink; }
#endif
}  // namespace logs

namespace net {
struct Connection {
    int state = 0;
    __attribute__((noinline)) int decode_frame(int length) { CHECK(length < zero); return length; }
    int read() { state = decode_frame(12); return state + 1; }
    __attribute__((noinline)) int encode_frame(int length) { put_bytes(nowhere, "frameframeframe", size_t(length)); return ++state; }
    __attribute__((noinline)) int write() { return encode_frame(12 + sink) + 1; }
};
}  // namespace net

namespace timers {
static std::vector<std::function<int(int)>> all;
__attribute__((noinline)) static int fire_one(std::function<int(int)> &timer) { return timer(12) + 1; }
__attribute__((noinline)) int fire() {
    all.push_back([](int number) { return read_cell(nowhere + number % 2) + number; });
    return fire_one(all[0]);
}
__attribute__((noinline)) int cancel() { return fire_one(all.at(size_t(5 + sink))); }
}  // namespace timers

namespace trees {
struct Node { Node *left; Node *right; const char *text; };
static Node nodes[12];
static void grow() { for (int at = 0; at < 12; at++) nodes[at] = Node{at < 11 ? &nodes[at + 1] : nullptr, nullptr, at < 11 ? "leafleafleaf" : nowhere}; }
__attribute__((noinline)) static int visit(const Node *node) {
    int sum = 0;
    if (node->left) sum += visit(node->left);
    return sum + read_cell(node->text);
}
int walk() { grow(); return visit(nodes) + 1; }
static int weigh(const Node *node) { return node->text[2]; }
__attribute__((noinline)) static int merge_into(const Node *node, int depth) {
    if (!node->left) return weigh(node);
    return merge_into(node->left, depth + 1) * 2 + depth;
}
int merge() { grow(); return merge_into(nodes, 0) + 1; }
}  // namespace trees

namespace statistics {
static int average(int sum, int count) { return sum / count; }
__attribute__((noinline)) int summarise() { return average(100, zero) + 1; }
__attribute__((noinline)) static void verify(int value) { if (value < 100) __builtin_trap(); sink = value; }
__attribute__((noinline)) int audit() { verify(zero); return sink; }
}  // namespace statistics

namespace image {
struct Image {
    char *rows;
    __attribute__((noinline)) void scale_row(int row) { row_at(rows, row)[0] = 1; sink = row; }
    int scale() { for (int row = 0; row < 4; row++) scale_row(row); return sink; }
    __attribute__((noinline)) int crop(int row) { char *at = row_at(rows, row); at[1] = 2; return at[2]; }
};
}  // namespace image

namespace text {
__attribute__((noinline)) static size_t measure(const char *word) { return strlen(word) + 1; }
#if VERSION == 2
int wrap() { auto each = [](const char *word) { return int(measure(word)) * 2; }; return each(nowhere) + sink; }
#else
int wrap() { return int(measure(nowhere)) * 2 + sink; }
#endif
static int compare(const void *one, const void *other) { return **(char *const *)one - **(char *const *)other; }
__attribute__((noinline)) int search() {
    char *words[4] = {nowhere, nowhere, nowhere, nowhere};
    qsort(words, 4, sizeof words[0], compare);
    return words[0] != nullptr;
}
}  // namespace text

static int session_open() { session::Session of; return of.open(); }
static int session_close() { session::Session of; return of.close(); }
static int cache_get() { cache::Cache<int> of; return of.get(7 + sink); }
static int cache_evict() { cache::Cache<long> of; return of.evict(7 + sink); }
static int net_read() { net::Connection of; return of.read(); }
static int net_write() { net::Connection of; return of.write(); }
static int image_scale() { image::Image of{nowhere}; return of.scale(); }
static int image_crop() { image::Image of{nowhere}; return of.crop(2 + sink); }

using Bug = int (*)();
static Bug bugs[] = {
    config::load, config::save, session_open, session_close, cache_get, cache_evict, query::plan, query::run,
    pages::build, pages::drop, logs::append, logs::rotate, net_read, net_write, timers::fire, timers::cancel,
    trees::walk, trees::merge, statistics::summarise, statistics::audit, image_scale, image_crop, text::wrap, text::search,
};
static const int bug_count = sizeof bugs / sizeof bugs[0];

// The ways in.
static int command(int bug) { return bugs[bug]() + 1; }
__attribute__((noinline)) static int run_cli(int bug) { sink = 0; return command(bug) * 2; }
struct Request { int bug; };
struct Worker {
    __attribute__((noinline)) int process(const Request &request) { return bugs[request.bug]() + 1; }
};
struct Server {
    Worker worker;
#if VERSION == 2
    __attribute__((noinline)) int route(const Request &request) { return worker.process(request) + 2; }
    __attribute__((noinline)) int handle(const Request &request) { return route(request) * 3; }
#else
    __attribute__((noinline)) int handle(const Request &request) { return worker.process(request) * 3; }
#endif
};
__attribute__((noinline)) static int serve(int bug) { Server server; return server.handle(Request{bug}) + 1; }
struct Batch {
    std::vector<Request> requests;
    __attribute__((noinline)) int run() { int sum = 0; for (auto &request : requests) sum += bugs[request.bug](); return sum; }
};
static void batch_loop(int bug) { Batch batch{{Request{bug}}}; sink = batch.run(); }
static int run_batch(int bug) { std::thread thread(batch_loop, bug); thread.join(); return sink; }
static int (*const ways[])(int) = {run_cli, serve, run_batch};

static int told;
static void tell(int number, siginfo_t *, void *context) {
    void *frames[64];
    int count = backtrace(frames, 64);
    void *interrupted = (void *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    dprintf(told, "signal %d\n", number);
    for (int at = 0; at < count; at++) {
        Dl_info place;
        bool is_interrupted = frames[at] == interrupted;
        if (dladdr(frames[at], &place) && place.dli_fname)
            dprintf(told, "%s%s %zx\n", is_interrupted ? "*" : "", place.dli_fname, (size_t)frames[at] - (size_t)place.dli_fbase);
        else
            dprintf(told, "%s? 0\n", is_interrupted ? "*" : "");
    }
    _exit(1);
}

int main() {
    told = dup(1);
    void *warm[4];
    backtrace(warm, 4);
    for (int bug = 0; bug < bug_count; bug++) {
        for (int way = 0; way < 3; way++) {
            dprintf(told, "bug %d way %d\n", bug, way);
            pid_t child = fork();
            if (child == 0) {
                for (int number : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS, SIGTRAP}) {
                    struct sigaction action = {};
                    action.sa_sigaction = tell;
                    action.sa_flags = SA_SIGINFO;
                    sigaction(number, &action, nullptr);
                }
                fclose(stderr);
                _exit(ways[way](bug) & 127);
            }
            waitpid(child, nullptr, 0);
        }
    }
}
