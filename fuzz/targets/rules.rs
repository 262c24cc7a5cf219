//! Rules for signatures that a project brings.
#![no_main]

use dump::signature::Rules;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(rules) = Rules::with("overlay", text) {
        let _ = rules.digest();
    }
});
