//! What is left out of a hostile core, from a file and as a stream, and rules that come from somebody else.
#![no_main]

use dump::parcel::{SplitError, split_file_by, split_stream_by};
use dump::redact::RedactionRules;
use std::sync::OnceLock;

const RULES: &str = r#"
[environment]
leave_out = ["*TOKEN*", "PATH"]
[[memory]]
mapping = ["*/libkeys.so*"]
[[memory]]
area = "anonymous"
[[memory]]
from = "0x7f0000000000"
to = "0x7f0000100000"
"#;

fn rules() -> &'static RedactionRules {
    static RULES_READ: OnceLock<RedactionRules> = OnceLock::new();
    RULES_READ.get_or_init(|| RedactionRules::read(RULES).expect("rules as docs/redaction.md has them"))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let streamed = split_stream_by(bytes, Some(rules()), &mut |_| Ok(()));
    let split = fuzz::as_file(bytes, |path| {
        let file = std::fs::File::open(path).expect("it is there");
        split_file_by(&file, Some(rules()), &mut |_| Ok(()))
    });
    match (&streamed, &split) {
        // Of a file copies go too, so their contents may differ.
        (Ok(streamed), Ok(split)) => assert_eq!(streamed.manifest.size, split.manifest.size),
        (Err(SplitError::Redaction(_)), _) | (_, Err(SplitError::Redaction(_))) => {}
        (Err(error), _) | (_, Err(error)) => panic!("{error}"),
    }
    // Rules that come from somebody else are refused or hold.
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = RedactionRules::read(text);
    }
});
