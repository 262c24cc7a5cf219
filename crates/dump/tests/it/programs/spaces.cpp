// Functions that the linker never hears of, in namespaces and types.
namespace shop {
static inline __attribute__((always_inline)) int price(const int *item) { return *item + 1; }
namespace {
inline __attribute__((always_inline)) int hidden(const int *item) { return shop::price(item) * 3; }
struct Till {
    static inline __attribute__((always_inline)) int count(const int *item) { return hidden(item) + 5; }
};
} // namespace
__attribute__((noinline)) int total(const int *item) { return Till::count(item) + 7; }
} // namespace shop

int main(int argc, char **argv) { return shop::total(argc > 9 ? (int *)argv : 0); }
