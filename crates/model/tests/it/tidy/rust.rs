//! The rules on Rust sources: budgets, openings, names and words that may not stand.
//!
//! Budgets are measured on the syntax tree; forbidden words on the tokens, so that comments and strings never count and
//! the arguments of macros do.

use super::Violation;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Attribute, FnArg, Item, Pat, Signature, Type, Visibility};

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 100;
const MAX_PARAMETERS: usize = 6;

/// The one crate that may write `unsafe` anywhere.
const UNSAFE_CRATE: &str = "sandbox";
/// The one file besides, which maps files into memory, and the crate whose root therefore only denies it.
const UNSAFE_FILE: (&str, &str) = ("dump", "src/mapped.rs");

/// Names that say where code was put and not what it is.
const EMPTY_NAMES: [&str; 12] = [
    "common", "handler", "handlers", "helper", "helpers", "manager", "managers", "misc", "service", "services", "util",
    "utils",
];

/// One parsed file.
pub(super) struct Source {
    path: String,
    text: String,
    syntax: syn::File,
    tokens: TokenStream,
}

impl Source {
    /// Returns the file, which must be Rust: the compiler has seen it before us.
    pub(super) fn parse(path: &str, text: &str) -> Self {
        let syntax = syn::parse_file(text).unwrap_or_else(|error| {
            panic!("{path}:{}: does not parse: {error}", error.span().start().line);
        });
        let tokens = text.parse().expect("what parses as a file is made of tokens");
        Self { path: path.to_owned(), text: text.to_owned(), syntax, tokens }
    }

    fn violation(&self, line: usize, what: String) -> Violation {
        Violation { path: self.path.clone(), line, what }
    }

    fn functions(&self) -> Vec<Function> {
        let mut finder = FunctionFinder::default();
        finder.visit_file(&self.syntax);
        finder.found
    }

    /// Returns the crate's name, and the path within the crate.
    fn place(&self) -> (&str, &str) {
        let inside = self.path.strip_prefix("crates/").expect("sources lie under crates/");
        inside.split_once('/').expect("a crate is a folder")
    }
}

/// Every file opens with what it owns.
pub(super) fn opening(source: &Source) -> Vec<Violation> {
    let first = source.text.lines().next().unwrap_or_default();
    if first.strip_prefix("//!").is_some_and(|words| !words.trim().is_empty()) {
        return Vec::new();
    }
    vec![source.violation(1, "the file does not open with `//!` and what it owns".to_owned())]
}

/// A file is short, its unit tests left aside.
pub(super) fn file_length(source: &Source) -> Vec<Violation> {
    let tests: usize = source.syntax.items.iter().map(test_module_lines).sum();
    let lines = source.text.lines().count() - tests;
    if lines <= MAX_FILE_LINES {
        return Vec::new();
    }
    vec![source.violation(1, format!("the file has {lines} lines without its tests, over {MAX_FILE_LINES}"))]
}

/// A function is short, from `fn` to its closing brace.
pub(super) fn function_length(source: &Source) -> Vec<Violation> {
    let too_long = |function: &Function| {
        (function.lines > MAX_FUNCTION_LINES).then(|| {
            let Function { name, lines, line, .. } = function;
            source.violation(*line, format!("`{name}` has {lines} lines, over {MAX_FUNCTION_LINES}"))
        })
    };
    source.functions().iter().filter_map(too_long).collect()
}

/// A function takes few parameters, `self` left aside.
pub(super) fn parameters(source: &Source) -> Vec<Violation> {
    let too_many = |function: &Function| {
        (function.parameters > MAX_PARAMETERS).then(|| {
            let Function { name, parameters, line, .. } = function;
            source.violation(*line, format!("`{name}` takes {parameters} parameters, over {MAX_PARAMETERS}"))
        })
    };
    source.functions().iter().filter_map(too_many).collect()
}

/// What others call takes an enum where it means one: nobody can read a bare `true`.
pub(super) fn bool_parameters(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for function in source.functions().into_iter().filter(|function| function.is_public) {
        for (line, parameter) in function.bools {
            violations.push(source.violation(line, format!("`{}` takes the bool `{parameter}`", function.name)));
        }
    }
    violations
}

/// The word `unsafe` stands in one crate only.
pub(super) fn unsafe_words(source: &Source) -> Vec<Violation> {
    if source.place().0 == UNSAFE_CRATE || source.place() == UNSAFE_FILE {
        return Vec::new();
    }
    let mut lines = Vec::new();
    walk(&source.tokens, &mut |trees| {
        let idents =
            trees.iter().filter_map(|tree| if let TokenTree::Ident(ident) = tree { Some(ident) } else { None });
        lines.extend(idents.filter(|ident| *ident == "unsafe").map(|ident| ident.span().start().line));
    });
    lines.into_iter().map(|line| source.violation(line, format!("`unsafe` outside of {UNSAFE_CRATE}"))).collect()
}

/// The roots of all other crates say so to the compiler.
pub(super) fn unsafe_forbidden(source: &Source) -> Vec<Violation> {
    let (name, inside) = source.place();
    let is_root = matches!(inside, "src/lib.rs" | "src/main.rs") || inside.starts_with("src/bin/");
    let forbids = |attribute: &Attribute| argument_is(attribute, "forbid", "unsafe_code");
    if [UNSAFE_CRATE, UNSAFE_FILE.0].contains(&name) || !is_root || source.syntax.attrs.iter().any(forbids) {
        return Vec::new();
    }
    vec![source.violation(1, "the crate's root lacks `#![forbid(unsafe_code)]`".to_owned())]
}

/// A lint is lifted by `expect` with its reason, which complains once it is not needed any more.
pub(super) fn allow_attributes(source: &Source) -> Vec<Violation> {
    let mut lines = Vec::new();
    walk(&source.tokens, &mut |trees| {
        for (at, tree) in trees.iter().enumerate() {
            let TokenTree::Group(group) = tree else { continue };
            // `#[…]` or `#![…]`: an attribute, as opposed to an array or an index.
            let before = |back: usize, sign: char| {
                let tree = at.checked_sub(back).and_then(|before| trees.get(before));
                matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
            };
            let is_attribute = before(1, '#') || (before(1, '!') && before(2, '#'));
            if group.delimiter() == Delimiter::Bracket && is_attribute && calls_allow(&group.stream()) {
                lines.push(group.span_open().start().line);
            }
        }
    });
    let what = "`allow` where `expect` with a reason belongs";
    lines.into_iter().map(|line| source.violation(line, what.to_owned())).collect()
}

/// A module is named for what it is, and its file for the module.
pub(super) fn file_name(path: &str) -> Option<Violation> {
    let what = Path::new(path).with_extension("").iter().skip(1).find_map(|part| {
        let part = part.to_string_lossy();
        if part == "mod" {
            Some("a module `foo` lives in `foo.rs`, not in `foo/mod.rs`".to_owned())
        } else {
            EMPTY_NAMES.contains(&&*part).then(|| format!("`{part}` does not say what is in it"))
        }
    })?;
    Some(Violation { path: path.to_owned(), line: 1, what })
}

/// What the rules ask about a function.
struct Function {
    name: String,
    line: usize,
    /// Zero where there is no body.
    lines: usize,
    parameters: usize,
    is_public: bool,
    /// Line and name of each parameter that is a bool, by value or by reference.
    bools: Vec<(usize, String)>,
}

#[derive(Default)]
struct FunctionFinder {
    found: Vec<Function>,
    in_public_trait: bool,
}

impl FunctionFinder {
    fn record(&mut self, signature: &Signature, block: Option<&syn::Block>, is_public: bool) {
        let line = signature.fn_token.span.start().line;
        let last = block.map(|block| block.brace_token.span.close().end().line);
        let typed: Vec<_> = signature
            .inputs
            .iter()
            .filter_map(|input| if let FnArg::Typed(typed) = input { Some(typed) } else { None })
            .collect();
        let bools = typed.iter().filter(|parameter| is_bool(&parameter.ty)).map(|parameter| {
            let name =
                if let Pat::Ident(pattern) = &*parameter.pat { pattern.ident.to_string() } else { "_".to_owned() };
            (parameter.colon_token.span.start().line, name)
        });
        self.found.push(Function {
            name: signature.ident.to_string(),
            line,
            lines: last.map_or(0, |last| last - line + 1),
            parameters: typed.len(),
            is_public,
            bools: bools.collect(),
        });
    }
}

impl<'ast> Visit<'ast> for FunctionFinder {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.record(&item.sig, Some(&item.block), is_public(&item.vis));
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.record(&item.sig, Some(&item.block), is_public(&item.vis));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.record(&item.sig, item.default.as_ref(), self.in_public_trait);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_foreign_item_fn(&mut self, item: &'ast syn::ForeignItemFn) {
        self.record(&item.sig, None, is_public(&item.vis));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let around = std::mem::replace(&mut self.in_public_trait, is_public(&item.vis));
        visit::visit_item_trait(self, item);
        self.in_public_trait = around;
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_bool(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.is_ident("bool"),
        Type::Reference(reference) => is_bool(&reference.elem),
        Type::Paren(paren) => is_bool(&paren.elem),
        _ => false,
    }
}

/// Returns how many lines a `#[cfg(test)] mod` takes, its attributes included; zero for any other item.
fn test_module_lines(item: &Item) -> usize {
    let Item::Mod(module) = item else { return 0 };
    let Some(first) = module.attrs.iter().find(|attribute| argument_is(attribute, "cfg", "test")) else { return 0 };
    let last = match (&module.content, &module.semi) {
        (Some((brace, _)), _) => brace.span.close().end().line,
        (None, Some(semicolon)) => semicolon.span.end().line,
        (None, None) => return 0,
    };
    last - first.pound_token.span.start().line + 1
}

/// Says whether an attribute is `name(argument)` and nothing more.
fn argument_is(attribute: &Attribute, name: &str, argument: &str) -> bool {
    let list = attribute.meta.require_list();
    attribute.path().is_ident(name) && list.is_ok_and(|list| list.tokens.to_string() == argument)
}

/// Says whether `allow(…)` stands anywhere within, so that `cfg_attr` hides nothing.
fn calls_allow(stream: &TokenStream) -> bool {
    let mut found = false;
    walk(stream, &mut |trees| {
        found |= trees.windows(2).any(|pair| match pair {
            [TokenTree::Ident(ident), TokenTree::Group(group)] => {
                *ident == "allow" && group.delimiter() == Delimiter::Parenthesis
            }
            _ => false,
        });
    });
    found
}

/// Shows the tokens of a stream, and of each group within it, to `look`.
fn walk(stream: &TokenStream, look: &mut dyn FnMut(&[TokenTree])) {
    let trees: Vec<_> = stream.clone().into_iter().collect();
    look(&trees);
    for tree in &trees {
        if let TokenTree::Group(group) = tree {
            walk(&group.stream(), look);
        }
    }
}

/// Holds `text` against `rule` as if it were the given file, and expects violations on exactly these lines.
#[track_caller]
fn check_at(path: &str, rule: fn(&Source) -> Vec<Violation>, text: &str, lines: &[usize]) {
    let found: Vec<_> = rule(&Source::parse(path, text)).iter().map(|violation| violation.line).collect();
    assert_eq!(found, lines, "in {path}:\n{text}");
}

#[track_caller]
fn check(rule: fn(&Source) -> Vec<Violation>, text: &str, lines: &[usize]) {
    check_at("crates/model/src/sample.rs", rule, text, lines);
}

#[test]
fn opening_bites() {
    check(opening, "//! What it owns.\nfn f() {}", &[]);
    check(opening, "", &[1]);
    check(opening, "//!\nfn f() {}", &[1]);
    check(opening, "\n//! Too late.", &[1]);
    check(opening, "// A comment.\n", &[1]);
    check(opening, "#![forbid(unsafe_code)]\n//! Too late.", &[1]);
}

#[test]
fn file_length_bites() {
    let lines = |count: usize| "// line\n".repeat(count);
    check(file_length, &lines(MAX_FILE_LINES), &[]);
    check(file_length, &lines(MAX_FILE_LINES + 1), &[1]);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(50));
    check(file_length, &format!("{}{tests}", lines(MAX_FILE_LINES)), &[]);
    check(file_length, &format!("{}{tests}", lines(MAX_FILE_LINES + 1)), &[1]);
    // What stands behind the tests counts too, and so does a module that is not for tests.
    check(file_length, &format!("{tests}{}", lines(MAX_FILE_LINES + 1)), &[1]);
    check(file_length, &format!("#[cfg(not(test))]\nmod m {{\n{}}}\n", lines(MAX_FILE_LINES)), &[1]);
    check(file_length, &format!("{}#[cfg(test)]\nmod tests;\n", lines(MAX_FILE_LINES)), &[]);
}

#[test]
fn function_length_bites() {
    // The opening and the closing line count.
    let body = |count: usize| format!("{{\n{}}}\n", "// line\n".repeat(count - 2));
    let (full, over) = (body(MAX_FUNCTION_LINES), body(MAX_FUNCTION_LINES + 1));
    check(function_length, &format!("fn f() {full}"), &[]);
    check(function_length, &format!("/// Documented.\n#[inline]\nfn f() {full}"), &[]);
    check(function_length, &format!("fn f() {over}"), &[1]);
    check(function_length, &format!("\nimpl S {{\npub async fn f() {over}}}"), &[3]);
    check(function_length, &format!("trait T {{\nfn f() {over}fn g();\n}}"), &[2]);
    check(function_length, &format!("mod m {{\nfn f() {full}fn g() {over}}}"), &[MAX_FUNCTION_LINES + 2]);
    check(function_length, &format!("const TEXT: &str = \"fn f() {over}\";"), &[]);
}

#[test]
fn parameters_bites() {
    check(parameters, "fn f(a: A, b: B, c: C, d: D, e: E, (f, g): (F, G)) {}", &[]);
    check(parameters, "fn f(a: A<B, C>, d: fn(E, F, G) -> H) {}", &[]);
    check(parameters, "impl S { fn f(&mut self, a: A, b: B, c: C, d: D, e: E, f: F) {} }", &[]);
    check(parameters, "fn f(a: A, b: B, c: C, d: D, e: E, f: F, g: G) {}", &[1]);
    check(parameters, "trait T {\nfn f(self, a: A, b: B, c: C, d: D, e: E, f: F, g: G);\n}", &[2]);
    check(parameters, "fn f() {\nfn g(a: A, b: B, c: C, d: D, e: E, f: F, g: G) {}\n}", &[2]);
}

#[test]
fn bool_parameters_bites() {
    check(bool_parameters, "pub fn f(a: A) -> bool { true }", &[]);
    check(bool_parameters, "fn f(a: bool) {}\npub(crate) fn g(a: bool) {}", &[]);
    check(bool_parameters, "pub fn f(a: fn(bool) -> bool, b: Vec<bool>) {}", &[]);
    check(bool_parameters, "impl Visitor for V { fn visit_bool(self, value: bool) {} }", &[]);
    check(bool_parameters, "trait T { fn f(a: bool); }", &[]);
    check(bool_parameters, "// pub fn f(a: bool) {}\nconst TEXT: &str = \"pub fn f(a: bool) {}\";", &[]);
    check(bool_parameters, "pub fn f(a: bool) {}", &[1]);
    check(bool_parameters, "impl S {\npub const fn f(\n&self,\na: A,\nb: &bool,\nc: &mut bool,\n) {}\n}", &[5, 6]);
    check(bool_parameters, "pub trait T {\nfn f(a: bool);\n}", &[2]);
}

#[test]
fn unsafe_words_bites() {
    let text = "fn f() {\nunsafe { g() }\n}";
    check(unsafe_words, text, &[2]);
    check_at("crates/sandbox/src/sample.rs", unsafe_words, text, &[]);
    check_at("crates/dump/src/mapped.rs", unsafe_words, text, &[]);
    check_at("crates/dump/src/core.rs", unsafe_words, text, &[2]);
    check(unsafe_words, "// unsafe\n/// unsafe { }\nconst TEXT: &str = \"unsafe\";", &[]);
    check(unsafe_words, "#![forbid(unsafe_code)]", &[]);
    check(unsafe_words, "unsafe impl Send for S {}\nunsafe fn f() {}\nunsafe extern \"C\" {}", &[1, 2, 3]);
    check(unsafe_words, "m! {\nunsafe { g() }\n}\n#[unsafe(no_mangle)]\nfn f() {}", &[2, 4]);
}

#[test]
fn unsafe_forbidden_bites() {
    for root in ["lib.rs", "main.rs", "bin/other.rs"] {
        let path = format!("crates/store/src/{root}");
        check_at(&path, unsafe_forbidden, "//! Text.\n#![forbid(unsafe_code)]", &[]);
        check_at(&path, unsafe_forbidden, "//! Text.\n// #![forbid(unsafe_code)]", &[1]);
        check_at(&path, unsafe_forbidden, "//! Text.\n#![deny(unsafe_code)]", &[1]);
        check_at(&path, unsafe_forbidden, "//! Text.\n#[forbid(unsafe_code)]\nmod m {}", &[1]);
    }
    check_at("crates/sandbox/src/lib.rs", unsafe_forbidden, "//! Text.", &[]);
    check_at("crates/store/src/blob.rs", unsafe_forbidden, "//! Text.", &[]);
    check_at("crates/store/tests/it/main.rs", unsafe_forbidden, "//! Text.", &[]);
}

#[test]
fn allow_attributes_bites() {
    check(allow_attributes, "#[expect(dead_code, reason = \"…\")]\nfn f() {}", &[]);
    check(allow_attributes, "// #[allow(dead_code)]\nconst TEXT: &str = \"#[allow(dead_code)]\";", &[]);
    check(allow_attributes, "fn f() { let a = [allow(1)]; self.allow(2); }", &[]);
    check(allow_attributes, "#![allow(dead_code)]\n#[allow(unused)]\nfn f() {}", &[1, 2]);
    check(allow_attributes, "#[cfg_attr(test, allow(dead_code))]\nfn f() {}", &[1]);
    check(allow_attributes, "m! {\n#[allow(dead_code)]\nfn f() {}\n}", &[2]);
}

#[test]
fn file_name_bites() {
    let check = |path: &str, is_fine: bool| assert_eq!(file_name(path).is_none(), is_fine, "{path}");
    check("crates/store/src/execution.rs", true);
    check("crates/store/src/execution/claim.rs", true);
    check("crates/store/src/commonplace.rs", true);
    check("crates/store/src/mod.rs", false);
    check("crates/store/tests/it/execution/mod.rs", false);
    check("crates/store/src/utils.rs", false);
    check("crates/server/src/handlers/execution.rs", false);
    check("crates/model/tests/it/helper.rs", false);
}
