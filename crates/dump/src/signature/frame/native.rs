//! Names of C and C++, as the demanglers of GCC, LLVM and Microsoft write them.

use super::MAX_DEPTH;

/// Suffixes of functions that a compiler split off, copied or moved; numbers may follow.
const CLONES: [&str; 18] = [
    "cold",
    "warm",
    "hot",
    "unlikely",
    "part",
    "isra",
    "constprop",
    "lto_priv",
    "llvm",
    "localalias",
    "clone",
    "resume",
    "destroy",
    "cleanup",
    "actor",
    "__uniq",
    "eh",
    "specialized",
];
/// Variants of one function among which the loader chooses by processor.
const VARIANTS: [&str; 15] = [
    "_avx",
    "_sse",
    "_ssse",
    "_evex",
    "_erms",
    "_generic",
    "_falkor",
    "_thunderx",
    "_mops",
    "_sve",
    "_a64fx",
    "_neoverse",
    "_emag",
    "_kunpeng",
    "_oryon",
];
/// Operators, the longest first.
const OPERATORS: [&str; 40] = [
    "<=>", "->*", "<<=", ">>=", "()", "[]", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=",
    "-=", "*=", "/=", "%=", "^=", "&=", "|=", "\"\"", "<", ">", "+", "-", "*", "/", "%", "^", "&", "|", "~", "!", "=",
    ",",
];
/// Stands for a scope without a name while spaces are looked for.
const ANONYMOUS: char = '\u{1}';

/// Returns a name of C or C++ without arguments, return type, and what templates were filled with.
pub(super) fn key(name: &str) -> String {
    let is_special = |open: &str, close: char| name.starts_with(open) && name.ends_with(close);
    // `<signal handler called>`, `-[NSString length]`.
    if (is_special("<", '>') && !name.contains("::")) || is_special("-[", ']') || is_special("+[", ']') {
        return name.to_owned();
    }
    let mut name = without_clones(without_offset(without_module(name)));
    for thunk in ["non-virtual thunk to ", "virtual thunk to ", "covariant return thunk to ", "guard variable for "] {
        name = name.strip_prefix(thunk).unwrap_or(name);
    }
    let text = Scanner { signs: name.chars().collect(), at: 0, text: String::new(), operator: None }.run();
    let text = text.replace(ANONYMOUS, "(anonymous namespace)");
    variant(text.strip_prefix("__GI_").unwrap_or(&text)).to_owned()
}

/// Returns a name without the suffixes of clones, `foo.part.0.cold`, and of versions, `foo@@GLIBC_2.2.5`.
pub(super) fn without_clones(name: &str) -> &str {
    let mut name = name.trim_end();
    for mark in [" [clone ", " (."] {
        name = name.find(mark).filter(|at| *at > 0).map_or(name, |at| &name[..at]);
    }
    if let Some(at) = name.find('@').filter(|at| *at > 0)
        && !name.contains("::")
    {
        name = &name[..at];
    }
    let (mut end, mut seen) = (name.len(), name.len());
    while let Some(dot) = name[..seen].rfind('.').filter(|dot| *dot > 0) {
        let word = &name[dot + 1..seen];
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number && !CLONES.contains(&word) {
            break;
        }
        (end, seen) = (dot, dot);
    }
    &name[..end]
}

/// Returns a name without the module that a kernel adds: `foo [module]`.
fn without_module(name: &str) -> &str {
    let Some((bare, module)) = name.strip_suffix(']').and_then(|name| name.rsplit_once(" [")) else { return name };
    let is_module = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !module.is_empty() && module.bytes().all(is_module) { bare } else { name }
}

/// Returns a name without what a kernel or a debugger adds: `foo+0x12/0x34`.
fn without_offset(name: &str) -> &str {
    let Some((function, offset)) = name.rsplit_once('+') else { return name };
    let is_offset =
        offset.starts_with("0x") && offset.bytes().all(|byte| byte.is_ascii_hexdigit() || b"x/".contains(&byte));
    if is_offset && !function.is_empty() { function } else { name }
}

/// `__memmove_avx_unaligned_erms` is `memmove` on a machine that has AVX.
fn variant(name: &str) -> &str {
    let Some(bare) = name.strip_prefix("__") else { return name };
    let is_family = ["mem", "str", "stp", "wcs", "wmem", "rawmem"].iter().any(|family| bare.starts_with(family));
    let cut = VARIANTS.iter().filter_map(|word| bare.find(word)).min().filter(|_| is_family);
    cut.map_or(name, |at| &bare[..at])
}

struct Scanner {
    signs: Vec<char>,
    at: usize,
    text: String,
    /// Where the last operator's name begins in the text.
    operator: Option<usize>,
}

impl Scanner {
    fn run(mut self) -> String {
        while let Some(sign) = self.signs.get(self.at).copied() {
            self.step(sign);
        }
        let text = self.text.trim();
        let lead = self.text.len() - self.text.trim_start().len();
        // What stands before the name is the return type; an operator's own name may hold spaces.
        let name_end = self.operator.map_or(text.len(), |at| at.saturating_sub(lead).min(text.len()));
        let start = text[..name_end].rfind(' ').map_or(0, |at| at + 1);
        let text = text[start..].trim_start_matches(['*', '&']);
        lambdas_called(text)
    }

    fn step(&mut self, sign: char) {
        match sign {
            '(' if self.named_scope() => (),
            '(' => {
                self.skip_group('(', ')');
                self.skip_qualifiers();
            }
            '<' if self.starts("<lambda") => self.close_over('<', '>', "{lambda}"),
            '<' if self.starts("<unnamed") => self.close_over('<', '>', "{unnamed}"),
            '<' if self.starts("<anonymous namespace>") => self.close_over('<', '>', "\u{1}"),
            '<' => self.close_over('<', '>', "<T>"),
            '{' if self.starts("{lambda") => self.close_over('{', '}', "{lambda}"),
            '{' if self.starts("{unnamed") => self.close_over('{', '}', "{unnamed}"),
            '{' if self.starts("{anonymous") => self.close_over('{', '}', "\u{1}"),
            '[' if self.starts("[abi:") => self.skip_group('[', ']'),
            '`' if self.starts("`anonymous namespace'") => self.replace("`anonymous namespace'", "\u{1}"),
            '\'' if self.starts("'lambda") || self.starts("'unnamed") => self.quoted(),
            '$' if self.starts("$_") && self.is_word_start() => {
                self.at += 2;
                self.skip_digits();
                self.text.push_str("{lambda}");
            }
            '_' if self.starts("_GLOBAL__N_") && self.is_word_start() => {
                self.replace("_GLOBAL__N_", "\u{1}");
                self.skip_digits();
            }
            'o' if self.starts("operator") && self.is_word_start() && !self.is_word(self.at + 8) => {
                self.operator_name();
            }
            _ => {
                self.text.push(sign);
                self.at += 1;
            }
        }
    }

    /// Takes `(anonymous namespace)`, the one group in parentheses that is a part of the name.
    fn named_scope(&mut self) -> bool {
        let found =
            ["(anonymous namespace)", "(anonymous class)", "(anonymous)"].into_iter().find(|word| self.starts(word));
        if let Some(word) = found {
            self.replace(word, "\u{1}");
        }
        found.is_some()
    }

    fn operator_name(&mut self) {
        self.operator = Some(self.text.len());
        self.replace("operator", "operator");
        if let Some(operator) = OPERATORS.into_iter().find(|operator| self.starts(operator)) {
            self.replace(operator, operator);
            return;
        }
        // `operator new[]`, `operator bool`: its name goes on until its arguments begin.
        while let Some(sign) = self.signs.get(self.at).copied().filter(|sign| *sign != '(') {
            match sign {
                '<' => self.close_over('<', '>', "<T>"),
                _ => {
                    self.text.push(sign);
                    self.at += 1;
                }
            }
        }
    }

    fn quoted(&mut self) {
        let is_lambda = self.starts("'lambda");
        self.at += 1;
        while self.signs.get(self.at).is_some_and(|sign| *sign != '\'') {
            self.at += 1;
        }
        self.at += 1;
        self.text.push_str(if is_lambda { "{lambda}" } else { "{unnamed}" });
    }

    /// Passes over `const`, `&` and their like, where they belong to a function and not to a type.
    fn skip_qualifiers(&mut self) {
        let words = [" const", " volatile", " noexcept", " &&", " &", "&&", "&"];
        let from = self.at;
        while let Some(word) = words.into_iter().find(|word| self.starts(word)) {
            self.at += word.chars().count();
        }
        if self.at < self.signs.len() && !self.starts("::") {
            self.at = from;
        }
    }

    /// Passes over a group and all groups in it.
    fn skip_group(&mut self, open: char, close: char) {
        let mut depth = 0_usize;
        while let Some(sign) = self.signs.get(self.at).copied() {
            let before = self.at.checked_sub(1).and_then(|before| self.signs.get(before)).copied();
            self.at += 1;
            if sign == open {
                depth += 1;
            } else if sign == close && !(sign == '>' && before == Some('-')) {
                depth -= 1;
            }
            if depth == 0 || depth > MAX_DEPTH * MAX_DEPTH {
                return;
            }
        }
    }

    fn close_over(&mut self, open: char, close: char, instead: &str) {
        self.skip_group(open, close);
        self.text.push_str(instead);
    }

    fn replace(&mut self, word: &str, instead: &str) {
        self.at += word.chars().count();
        self.text.push_str(instead);
    }

    fn skip_digits(&mut self) {
        while self.signs.get(self.at).is_some_and(char::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn starts(&self, word: &str) -> bool {
        let rest = self.signs.get(self.at..).unwrap_or_default();
        let mut signs = rest.iter();
        word.chars().all(|sign| signs.next() == Some(&sign))
    }

    fn is_word(&self, at: usize) -> bool {
        self.signs.get(at).is_some_and(|sign| sign.is_alphanumeric() || *sign == '_')
    }

    fn is_word_start(&self) -> bool {
        self.at.checked_sub(1).is_none_or(|before| !self.is_word(before))
    }
}

/// A lambda is its own only function, whatever that is called.
fn lambdas_called(text: &str) -> String {
    ["::operator()", "::_FUN", "::__invoke"]
        .iter()
        .fold(text.to_owned(), |text, call| text.replace(&format!("{{lambda}}{call}"), "{lambda}"))
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn what_differs_between_builds_is_dropped() {
        let check = |name: &str, expected: &str| assert_eq!(key(name), expected, "{name}");
        check("main", "main");
        check("parse.cold", "parse");
        check("parse.part.0.isra.3.cold.12", "parse");
        check("parse.constprop.0", "parse");
        check("parse.lto_priv.14", "parse");
        check("parse.llvm.1234567890", "parse");
        check("compute._omp_fn.2", "compute._omp_fn");
        check("foo(int) [clone .cold] [clone .12]", "foo");
        check("foo(int) (.cold)", "foo");
        check("memcpy@@GLIBC_2.14", "memcpy");
        check("printf@plt", "printf");
        check("ext4_put_super+0x12/0x340 [ext4]", "ext4_put_super");
        check("nft_set_destroy.isra.0 [nf_tables]", "nft_set_destroy");
        check("nft_set_destroy.cold+0x1/0x2", "nft_set_destroy");
        check("__memmove_avx_unaligned_erms", "memmove");
        check("__strlen_avx2", "strlen");
        check("__GI_raise", "raise");
        check("__memory_pool_avx", "memory_pool");
    }

    #[test]
    fn arguments_and_templates_are_dropped() {
        let check = |name: &str, expected: &str| assert_eq!(key(name), expected, "{name}");
        check("app::Parser::parse(std::string const&, int) const", "app::Parser::parse");
        check("std::vector<int, std::allocator<int> >::push_back(int&&)", "std::vector<T>::push_back");
        check("void std::sort<int*, std::less<int>>(int*, int*, std::less<int>)", "std::sort<T>");
        check("std::map<int, long> const& make<int>(int) &&", "make<T>");
        check("std::function<void (int)>::operator()(int) const", "std::function<T>::operator()");
        check("operator new(unsigned long)", "operator new");
        check("operator delete[](void*, unsigned long)", "operator delete[]");
        check("bool app::operator==<int>(app::A<int> const&, int)", "app::operator==<T>");
        check("bool std::operator< <char>(int)", "std::operator< <T>");
        check("std::ostream& std::operator<< <char>(std::ostream&, char)", "std::operator<< <T>");
        check("app::A::operator->() const", "app::A::operator->");
        check("app::A::operator()(int)", "app::A::operator()");
        check("app::A::operator std::vector<int>() const", "app::A::operator std::vector<T>");
        check("unsigned long app::A::operator[]<int>(int)", "app::A::operator[]<T>");
        check("app::operators::add(int)", "app::operators::add");
        check("std::__cxx11::to_string[abi:cxx11](int)", "std::__cxx11::to_string");
        check("decltype(auto) app::visit<int>(int)", "app::visit<T>");
        check("app::Fn<decltype(a->b)>::call(int)", "app::Fn<T>::call");
        check("non-virtual thunk to app::A::run()", "app::A::run");
        check("app::outer(int)::Local::run() const", "app::outer::Local::run");
        check("app::~A()", "app::~A");
    }

    #[test]
    fn lambdas_and_anonymous_scopes_are_one() {
        let check = |name: &str, expected: &str| assert_eq!(key(name), expected, "{name}");
        let expected = "app::run::{lambda}";
        check("app::run(int)::{lambda(int)#1}::operator()(int) const", expected);
        check("app::run(int) const::{lambda(int)#2}::operator()(int) const", expected);
        check("app::run(int)::'lambda0'(int)::operator()(int) const", expected);
        check("app::run(int)::$_12::operator()(int) const", expected);
        check("app::run::<lambda_1a2b>::operator()", expected);
        check("app::run(int)::{lambda(int)#1}::_FUN(int)", expected);
        check("app::run<int>(int)::$_0::__invoke(int)", "app::run<T>::{lambda}");
        let expected = "app::(anonymous namespace)::run";
        check("app::(anonymous namespace)::run(int)", expected);
        check("app::{anonymous}::run(int)", expected);
        check("app::`anonymous namespace'::run", expected);
        check("app::<anonymous namespace>::run", expected);
        check("app::_GLOBAL__N_1::run", expected);
        check("int app::(anonymous namespace)::run<int>(int)", "app::(anonymous namespace)::run<T>");
    }

    #[test]
    fn special_names_stay() {
        let check = |name: &str| assert_eq!(key(name), name, "{name}");
        check("<signal handler called>");
        check("-[NSString stringByAppending:with more:]");
        check("_start");
        check("__restore_rt");
        check("entry_SYSCALL_64_after_hwframe");
    }
}
