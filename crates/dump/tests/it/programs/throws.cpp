// One way for each argument to have C++'s library give up, or fail, on behalf of its caller.
#include <bitset>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

struct Session : std::enable_shared_from_this<Session> {};
static volatile std::size_t far = 99;
static std::mutex *volatile nobody;

__attribute__((noinline)) static long ask(const std::string &how) {
    if (how == "stoi") return std::stoi(how);
    if (how == "stod") return std::stod(how) > 1;
    if (how == "vector") return std::vector<int>(3).at(far);
    if (how == "map") return std::map<std::string, int>().at(how);
    if (how == "substr") return how.substr(far).size();
    if (how == "bitset") return std::bitset<8>(5).test(far);
    if (how == "room") return *new char[far << 40];
    if (how == "optional") return std::optional<long>(far > 1 ? std::nullopt : std::optional<long>(2)).value();
    if (how == "variant") return std::get<std::string>(std::variant<int, std::string>(3)).size();
    if (how == "shared") return Session().shared_from_this().use_count();
    if (how == "future") return std::future<int>().get();
    if (how == "mutex") nobody->lock();
    return 0;
}
int main(int count, char **arguments) { return ask(count > 1 ? arguments[1] : ""); }
