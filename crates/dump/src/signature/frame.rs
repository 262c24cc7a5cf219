//! The key of a frame: its function without what differs between builds of the same source.
//!
//! Names arrive demangled, in one of five fashions, or not demangled at all. What is dropped: arguments and return types,
//! what templates and generics were filled with, numbers of lambdas and closures, hashes, and the suffixes of compilers
//! that split or copy functions. A function that is not known gives way to its module, build id and offset. Names are
//! hostile: everything here takes one pass over a bounded text, and depth is a counter or a bounded recursion.

mod native;
mod rust;

use model::report::{Frame, MAX_NAME_CHARS, Module};
use model::signature::MAX_KEY_CHARS;
use std::fmt;

/// What a frame without any name is called; it is nothing that could tell two crashes apart.
pub(crate) const NOWHERE: &str = "?";
/// Nesting of groups in a name, beyond which it is taken as it is.
const MAX_DEPTH: usize = 32;
/// Digits of a build id in a key: enough to tell builds apart, short enough to read.
const BUILD_DIGITS: usize = 8;

/// The fashions in which functions are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Native,
    Rust,
    Go,
    Java,
    Python,
}

/// A key, and whether it is that of a function that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) is_unknown: bool,
}

/// Returns the key of a frame.
pub(crate) fn key(frame: &Frame, module: Option<&Module>) -> Key {
    let name = frame.function.as_deref().and_then(|function| named(function, frame));
    let symbol = frame.symbol.as_deref().and_then(|symbol| named(symbol, frame));
    // Debug information may leave out what a function is in; the linker's name never does.
    let is_fuller = |symbol: &String| {
        name.as_deref().is_none_or(|name| symbol.strip_suffix(name).is_some_and(|scope| scope.ends_with("::")))
    };
    let name = symbol.filter(is_fuller).or(name.clone());
    if let Some(text) = name.map(|name| bounded(&name)).filter(|text| !text.is_empty()) {
        return Key { text, is_unknown: false };
    }
    let place = place(frame, module).or_else(|| {
        let file = frame.file.as_deref().map(basename).filter(|file| !file.is_empty())?;
        Some(frame.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
    });
    Key { text: bounded(&place.unwrap_or_else(|| NOWHERE.to_owned())), is_unknown: true }
}

/// Returns `module[build id]+offset`, which is the same in every crash of one build at one place.
pub(crate) fn place(frame: &Frame, module: Option<&Module>) -> Option<String> {
    let name = module_name(frame, module)?;
    let offset = frame.offset?;
    let build = module.and_then(|module| module.build_id.as_deref()).filter(|build| !build.is_empty());
    Some(match build {
        Some(build) => format!("{name}[{}]+{offset}", build.chars().take(BUILD_DIGITS).collect::<String>()),
        None => format!("{name}+{offset}"),
    })
}

/// Returns the file name of a frame's module.
pub(crate) fn module_name<'a>(frame: &'a Frame, module: Option<&'a Module>) -> Option<&'a str> {
    let path = module.map(|module| module.path.as_str()).or(frame.module_name.as_deref())?;
    Some(basename(path.trim_end_matches(" (deleted)"))).filter(|name| !name.is_empty())
}

fn basename(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Returns the key of a name, or nothing where the name says nothing.
fn named(name: &str, frame: &Frame) -> Option<String> {
    let name = name.trim();
    let says_nothing = ["", "?", "??", "???", "<unknown>", "[unknown]", "<redacted>", "<null>", "n/a", "(inlined)"];
    if says_nothing.contains(&name) || name.starts_with("0x") || name.len() > MAX_NAME_CHARS * 4 {
        return None;
    }
    let demangled = demangled(name);
    let name = demangled.as_deref().unwrap_or(name);
    let text = match language(name, frame) {
        Language::Native => native::key(name),
        Language::Rust => rust::key(name),
        Language::Go => go(name),
        Language::Java => java(name),
        Language::Python => python(name, frame.file.as_deref()),
    };
    // A name that melted away was none of the fashions; better its own words than none.
    Some(if text.is_empty() { name.to_owned() } else { text })
}

/// Tells in which fashion a function is named: by its file, by its symbol, by the look of the name.
fn language(name: &str, frame: &Frame) -> Language {
    let file = frame.file.as_deref().unwrap_or_default();
    match file.rsplit_once('.').map(|(_, extension)| extension) {
        Some("rs") => return Language::Rust,
        Some("go") => return Language::Go,
        Some("java" | "kt" | "scala" | "groovy") => return Language::Java,
        Some("py" | "pyx" | "pyi") => return Language::Python,
        _ if file.starts_with("<frozen ") => return Language::Python,
        _ => (),
    }
    let symbol = frame.symbol.as_deref().unwrap_or_default();
    let is_rust = symbol.starts_with("_R")
        || [symbol, name].iter().any(|name| rust::hash(name).is_some())
        || ["{{closure}}", "{closure#", "{closure_env#", "{impl#"].iter().any(|part| name.contains(part))
        || (name.starts_with('<') && name.contains(">::"))
        || ["core::", "alloc::", "std::rt::", "std::panicking::"].iter().any(|root| name.starts_with(root));
    if is_rust { Language::Rust } else { Language::Native }
}

/// Writes no more than a name may have; a few letters of a mangled name can stand for gigabytes.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_NAME_CHARS {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Returns a mangled name in its language's words, should nobody have done that yet.
fn demangled(name: &str) -> Option<String> {
    use fmt::Write;
    let is_mangled = ["_Z", "__Z", "_R", "___Z"].iter().any(|start| name.starts_with(start));
    if !is_mangled || name.len() > MAX_NAME_CHARS {
        return None;
    }
    let mut text = Bounded(String::new());
    if let Ok(symbol) = rustc_demangle::try_demangle(name) {
        write!(text, "{symbol:#}").ok()?;
        return Some(text.0);
    }
    let symbol = cpp_demangle::Symbol::new(native::without_clones(name)).ok()?;
    let options = cpp_demangle::DemangleOptions::new().recursion_limit(96);
    symbol.structured_demangle(&mut text, &options).ok()?;
    Some(text.0)
}

/// `main.(*Server).handle(0xc0001, …)` is `main.(*Server).handle`; a closure's number goes.
fn go(name: &str) -> String {
    let name = name.strip_prefix("created by ").unwrap_or(name);
    let name = name.split(" in goroutine ").next().unwrap_or(name);
    // The arguments open the last group that does not follow a dot; `.(*T)` is a receiver.
    let arguments = name.char_indices().find(|(at, sign)| *sign == '(' && *at > 0 && !name[..*at].ends_with('.'));
    let name = arguments.map_or(name, |(at, _)| &name[..at]);
    let mut text = String::new();
    let mut depth = 0_usize;
    for sign in name.chars() {
        match sign {
            '[' => {
                if depth == 0 {
                    text.push_str("[T]");
                }
                depth += 1;
            }
            ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => text.push(sign),
            _ => (),
        }
    }
    let mut parts: Vec<&str> = text.trim_end_matches("-fm").split('.').collect();
    let is_closure = |part: &str| {
        let digits = ["func", "gowrap", "deferwrap"].iter().find_map(|word| part.strip_prefix(word)).unwrap_or(part);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let before = parts.len();
    while parts.len() > 2 && parts.last().is_some_and(|part| is_closure(part)) {
        parts.pop();
    }
    let is_closure = parts.len() < before;
    let text = parts.join(".");
    if is_closure { text + ".func" } else { text }
}

/// What a virtual machine made up on the way bears a number that differs each time; so do its lambdas.
fn java(name: &str) -> String {
    let name = name.split('(').next().unwrap_or(name).trim();
    let name = name.strip_prefix("at ").unwrap_or(name);
    // `app//com.example.Main.run` names loader and module before the class.
    let name = name.rsplit('/').next().filter(|_| !name.contains("$$Lambda")).unwrap_or(name);
    let mut text = String::new();
    let mut signs = name.chars().peekable();
    while let Some(sign) = signs.next() {
        if sign == '/' {
            // `$$Lambda$14/0x0000000800c03000.run`
            while signs.next_if(|next| *next != '.').is_some() {}
            continue;
        }
        text.push(sign);
        let is_made_up = ["$$Lambda$", "Accessor", "$Proxy", "$$EnhancerBySpringCGLIB$$", "$$SpringCGLIB$$"]
            .iter()
            .any(|word| text.ends_with(word));
        if is_made_up {
            while signs.next_if(char::is_ascii_hexdigit).is_some() {}
        }
        // `lambda$main$0`
        if sign == '$' && text.contains("lambda$") && signs.peek().is_some_and(char::is_ascii_digit) {
            text.pop();
            while signs.next_if(char::is_ascii_digit).is_some() {}
        }
    }
    text.trim_end_matches('$').to_owned()
}

/// `load` alone could be anybody's: a function is told with its module, which is named by the file.
fn python(name: &str, file: Option<&str>) -> String {
    let Some(file) = file else { return name.to_owned() };
    if let Some(module) = file.strip_prefix("<frozen ").and_then(|rest| rest.strip_suffix('>')) {
        return format!("{module}.{name}");
    }
    let stem = |path: &str| basename(path).split('.').next().unwrap_or_default().to_owned();
    let folder = || file.rsplit_once(['/', '\\']).map(|(folder, _)| stem(folder));
    let module = match stem(file) {
        module if module == "__init__" || module == "__main__" => folder().unwrap_or(module),
        module => module,
    };
    if module.is_empty() { name.to_owned() } else { format!("{module}.{name}") }
}

/// Returns a key of bearable length, without what would spoil a line; what is cut off lives on in a digest.
fn bounded(text: &str) -> String {
    let clean: String = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect();
    short(clean.trim(), MAX_KEY_CHARS)
}

/// Returns a text of at most so many characters, the end of a longer one replaced by a digest of the whole.
pub(crate) fn short(text: &str, most: usize) -> String {
    const DIGITS: usize = 12;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let kept: String = text.chars().take(most.saturating_sub(DIGITS + 1)).collect();
    format!("{kept}~{}", digest.get(..DIGITS).expect("a digest has 64 ASCII digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::report::{Address, Found, Trust};
    use proptest::prelude::*;

    fn frame(function: &str, file: Option<&str>) -> Frame {
        Frame { function: Some(function.to_owned()), file: file.map(str::to_owned), ..Frame::new(Trust::Cfi) }
    }

    fn check(function: &str, file: Option<&str>, expected: &str) {
        assert_eq!(key(&frame(function, file), None).text, expected, "{function}");
    }

    #[test]
    fn go_java_and_python_have_their_own_ways() {
        let go = |function, expected| check(function, Some("main.go"), expected);
        go("main.main", "main.main");
        go("main.(*Server).handle(0xc000010000, {0x1, 0x2})", "main.(*Server).handle");
        go("main.main.func1", "main.main.func");
        go("main.main.func1.2.3", "main.main.func");
        go("main.main.gowrap2", "main.main.func");
        go("main.(*Server).handle-fm", "main.(*Server).handle");
        go("main.Map[go.shape.int,go.shape.[]string](...)", "main.Map[T]");
        go("gopkg.in/yaml.v3.Unmarshal({0x0})", "gopkg.in/yaml.v3.Unmarshal");
        go("created by main.serve in goroutine 1", "main.serve");
        let java = |function, expected| check(function, Some("Main.java"), expected);
        java("com.example.Main.run", "com.example.Main.run");
        java("com.example.Main.<init>(Main.java:12)", "com.example.Main.<init>");
        java("app//com.example.Main.lambda$main$0", "com.example.Main.lambda$main");
        java("com.example.Main$$Lambda$14/0x0000000800c03000.run", "com.example.Main$$Lambda$.run");
        java("com.example.Main$$Lambda/0x0000000800c03000.run", "com.example.Main$$Lambda.run");
        java(
            "jdk.internal.reflect.GeneratedMethodAccessor12.invoke",
            "jdk.internal.reflect.GeneratedMethodAccessor.invoke",
        );
        java("com.sun.proxy.$Proxy41.call", "com.sun.proxy.$Proxy.call");
        check("load", Some("/usr/lib/python3.11/json/__init__.py"), "json.load");
        check("raw_decode", Some("/usr/lib/python3.11/json/decoder.py"), "decoder.raw_decode");
        check("<module>", Some("app.py"), "app.<module>");
        check("_call", Some("<frozen importlib._bootstrap>"), "importlib._bootstrap._call");
    }

    #[test]
    fn mangled_names_are_read() {
        check("_ZN3foo3barEi", None, "foo::bar");
        check("_ZNSt6vectorIiSaIiEE9push_backERKi.part.0", None, "std::vector<T>::push_back");
        check("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", None, "core::ptr::drop_in_place");
        check("_RNvCsL39EUhRVRM_5alloc3foo", None, "alloc::foo");
        check("_ZNOT_MANGLED_AT_ALL", None, "_ZNOT_MANGLED_AT_ALL");
        let check = |function: Option<&str>, symbol: &str, expected: &str| {
            let function = function.map(str::to_owned);
            let frame = Frame { function, symbol: Some(symbol.to_owned()), ..Frame::new(Trust::Cfi) };
            assert_eq!(key(&frame, None).text, expected);
        };
        check(Some("bar"), "_ZN3foo3barEi", "foo::bar");
        check(None, "_ZN3foo3barEi", "foo::bar");
        check(Some("ar"), "_ZN3foo3barEi", "ar");
        check(Some("memcpy"), "__memmove_avx_unaligned", "memcpy");
    }

    #[test]
    fn a_place_stands_for_a_function_that_is_not_known() {
        let module = Module {
            path: "/usr/lib/libpng16.so.16 (deleted)".to_owned(),
            start: Address(0),
            end: Address(0),
            bias: Address(0),
            build_id: Some("0123456789abcdef".to_owned()),
            found: Found::Missing,
            lack: None,
            supplementary: None,
        };
        let check = |change: &dyn Fn(&mut Frame), module: Option<&Module>, expected: &str| {
            let mut frame = Frame::new(Trust::Cfi);
            change(&mut frame);
            assert_eq!(key(&frame, module), Key { text: expected.to_owned(), is_unknown: true });
        };
        let unnamed = Module { build_id: None, ..module.clone() };
        check(&|frame| frame.offset = Some(Address(0x12)), Some(&module), "libpng16.so.16[01234567]+0x12");
        check(&|frame| frame.offset = Some(Address(0x12)), Some(&unnamed), "libpng16.so.16+0x12");
        check(&|frame| frame.function = Some("??".to_owned()), None, "?");
        check(
            &|frame| {
                frame.file = Some("/src/a.c".to_owned());
                frame.line = Some(7);
            },
            None,
            "a.c:7",
        );
    }

    #[test]
    fn a_long_key_ends_in_a_digest() {
        let long = "very_".repeat(100);
        let other = format!("{long}other");
        let keys = [&long, &other].map(|name| key(&frame(name, None), None).text);
        assert_eq!(keys.each_ref().map(|key| key.chars().count()), [MAX_KEY_CHARS; 2]);
        assert_ne!(keys[0], keys[1]);
    }

    proptest! {
        #[test]
        fn no_name_is_too_strange(name in "[-a-z0-9_:<>(){}\\[\\] *&$#'`.,@+é\u{1}]{0,80}", file in prop::option::of("a\\.(rs|go|java|py|c)")) {
            let first = key(&frame(&name, file.as_deref()), None);
            prop_assert!(first.text.chars().count() <= MAX_KEY_CHARS);
            prop_assert!(!first.text.is_empty());
        }

        #[test]
        fn depth_is_no_danger(sign in "[<({\\[]", count in 0_usize..4000) {
            let name = format!("a{}", sign.repeat(count));
            prop_assert!(!key(&frame(&name, Some("a.rs")), None).text.is_empty());
            prop_assert!(!key(&frame(&name, None), None).text.is_empty());
        }
    }
}
