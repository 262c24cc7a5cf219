//! Entries: frames that every program has, such as `main`. Where a signature names nothing else, they are told with their
//! program, as examples of rules write it: `main @app` by the module, `main @ demo.c` by the source file where no module is
//! known. What a release changes of a module's name is left out.

use super::Signer;
use super::rule::Rule;

impl<'a> Signer<'a> {
    /// Returns the rule by which a frame is one that every program has.
    pub(super) fn entry(&self, at: usize) -> Option<&'a Rule> {
        self.role(&self.stack.frames[at]).1.filter(|rule| rule.entry)
    }

    /// Returns which program a frame that every program has is in, as far as the stack tells.
    pub(super) fn program(&self, at: usize) -> Option<String> {
        let frames = &self.stack.frames;
        // A text may tell the module of one entry and the source file of another.
        let entries = (at..frames.len()).filter(|at| self.entry(*at).is_some());
        let module = entries.filter_map(|at| self.stack.module_of(&frames[at])).next();
        if let Some(module) = module {
            return Some(format!("@{}", unversioned(module)));
        }
        let file = self.stack.file_of(&frames[at])?.rsplit(['/', '\\']).next()?;
        (!file.is_empty()).then(|| format!("@ {file}"))
    }
}

/// Returns a module's name without its version.
fn unversioned(name: &str) -> &str {
    if let Some(end) = name.find(".so.") {
        return &name[..end + ".so".len()];
    }
    let head = name.trim_end_matches(|sign: char| sign.is_ascii_digit() || sign == '.');
    let version = &name[head.len()..];
    // A number alone may be what tells two programs apart.
    if !version.starts_with(|sign: char| sign.is_ascii_digit()) || !version.contains('.') || version.ends_with('.') {
        return name;
    }
    let head = head.strip_suffix("-v").or_else(|| head.strip_suffix("_v")).unwrap_or(head).trim_end_matches(['-', '_']);
    if head.is_empty() { name } else { head }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Rules;

    #[test]
    fn a_version_is_no_part_of_a_name() {
        let check = |name: &str, expected: &str| assert_eq!(unversioned(name), expected, "{name}");
        check("app", "app");
        check("app.exe", "app.exe");
        check("libapp.so", "libapp.so");
        check("libapp.so.1.2.3", "libapp.so");
        check("app-1.2.3", "app");
        check("app_v1.2", "app");
        check("python3.11", "python");
        check("bzip2", "bzip2");
        check("app-2", "app-2");
        check("1.2.3", "1.2.3");
        check("app1.", "app1.");
    }

    #[test]
    fn a_project_says_what_an_entry_is() {
        let example = |signature: &str| {
            let frames = "frames = ['run_plugin @host', 'main @host']";
            format!("[[example]]\nclass = 'null_read'\n{frames}\nsignature = '{signature}'\n")
        };
        let check = |rule: &str, signature: &str| {
            let rules = Rules::with("ours.toml", &format!("{rule}{}", example(signature))).unwrap();
            let ours: Vec<_> = rules.failures().into_iter().filter(|wrong| wrong.place.starts_with("ours")).collect();
            assert!(ours.is_empty(), "{ours:?}");
        };
        check("", "null_access | run_plugin");
        let rule = "[[rule]]\nrole = 'stop'\nentry = true\nwhy = 'every host has it'\nfunction = ['run_plugin']\n";
        check(rule, "null_access | run_plugin @host");
        check(
            "[[rule]]\nrole = 'skip'\nwhy = 'x'\nfunction = ['run_plugin']\n\
             [[rule]]\nrole = 'stop'\nwhy = 'one program only'\nfunction = ['main']\n",
            "null_access | main",
        );
    }
}
