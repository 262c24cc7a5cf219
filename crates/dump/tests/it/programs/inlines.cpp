// Functions inlined into each other, templates, lambdas, a cold part and a virtual call: what C++ puts on a stack.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace shop {
struct Item {
    int price;
    std::string name;
};

template <typename T> static inline T twice(T value) {
    if (value > 1000) abort();
    return value + value;
}

class Cart {
    std::vector<Item> items;

  public:
    virtual ~Cart() {}
    __attribute__((always_inline)) inline int total(int factor) const {
        int sum = 0;
        for (const auto &item : items) sum += twice(item.price) * factor;
        return sum;
    }
    __attribute__((noinline)) virtual void add(int price, const std::string &name) {
        if (price < 0) throw std::invalid_argument("a price below nothing: " + name);
        items.push_back({price, name});
    }
};

__attribute__((noinline)) static int discount(const Cart &cart, int percent) {
    auto share = [percent](int sum) { return sum * (100 - percent) / 100; };
    return share(cart.total(1)) + share(cart.total(2));
}
} // namespace shop

int main(int argc, char **argv) {
    shop::Cart cart;
    for (int i = 1; i < argc; i++) cart.add(atoi(argv[i]), argv[i]);
    printf("%d\n", shop::discount(cart, argc));
    return 0;
}
