//! What words mean, which are refused and why, and that no words do harm.

use super::*;
use crate::dump::query::{DumpCursor, Selection};
use crate::dump::{Dump, DumpFacts, DumpSignature};
use crate::{Digest, ExecutionId, TenantId};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

fn now() -> Timestamp {
    "2017-11-18T00:30:00Z".parse().expect("is an instant")
}

fn dump() -> Dump {
    let id = DumpId::new(now(), 7);
    Dump {
        id,
        tenant: TenantId::new(now(), 1),
        hash: "76998f82a450a8914037e4da838ec609".to_owned(),
        digest: Digest::from_bytes([1; 32]),
        size: 4_096,
        manifest: None,
        kind: DumpKind::Core,
        state: DumpState::Analysed,
        is_truncated: false,
        name: "core.svc.startd.23308".to_owned(),
        facts: DumpFacts {
            time: Some("2017-11-17T19:34:29Z".parse().expect("is an instant")),
            cmd: Some("svc.startd".to_owned()),
            psargs: Some("/lib/svc/bin/svc.startd -s \"a=b\"".to_owned()),
            pid: Some(23_308),
            node: Some("95SY9R1".to_owned()),
            platform: None,
        },
        ticket: None,
        properties: serde_json::from_value(json!({
            "triage": {"engineer": "bmc", "level": 3, "sure": true, "notes": ["a*b", "c"]},
            "answer": "42", "dotted.name": {"x.y": 1.5}, "nothing": {},
        }))
        .expect("is an object"),
        stack: ["libc.so.1`_lwp_kill+0x15()", "utmpx_postfork+0x44()", "main()"].map(str::to_owned).to_vec(),
        signature: Some(DumpSignature { id: "sig_1".to_owned(), text: "utmpx_postfork | fork_common".to_owned() }),
        execution: Some(ExecutionId::new(now(), 3)),
        report: None,
        by: "ann".to_owned(),
        redaction: None,
        purged: None,
        class: Some("null_read".to_owned()),
        severity: Some(Severity::Medium),
        cause: None,
        uploaded_at: "2017-11-18T00:00:00Z".parse().expect("is an instant"),
    }
}

fn words(line: &str) -> Vec<String> {
    line.split('|').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

const MEANT: &[&str] = &[
    "",
    "76998f82",
    "cmd=svc.startd",
    "cmd=svc*",
    "cmd=*start?",
    "cmd=\"svc.startd\"",
    "type=core",
    "type=c*",
    "cmd=svc* | type=core",
    "ticket=undefined",
    "platform=undefined",
    "node=95SY9R1 | NOT | platform=x",
    "cmd=java | OR | cmd=svc*",
    "( | cmd=java | OR | type=core | ) | node=95*",
    "NOT | NOT | type=core",
    "type=crash | OR | ( | type=core | AND | NOT | ( | cmd=a | OR | cmd=b | ) | )",
    "mtime=6h",
    "mtime=d",
    "time=1month",
    "mtime=18000s",
    "mtime=300min",
    "otime=2h",
    "mtime=2fortnight",
    "otime=1",
    "mtime=9000000",
    "mtime=1y",
    "mtime=3weeks",
    "time<6h",
    "time>4h",
    "time=2017-11-17",
    "time>=2017-11-17",
    "time<2017-11-18",
    "time=2017-11-17T19:34:29",
    "time=2017-11-17T19:34:29Z",
    "time<=2017-11-17T19:34:29",
    "uploaded=1h",
    "uploaded>2017-11-17",
    "pid=23308",
    "pid>=23308",
    "pid<99999",
    "size>4000",
    "size!=1",
    "psargs=*a=b*",
    "stack=*utmpx_postfork*",
    "stack=main()",
    "stack=libc.so.1`_lwp_kill+0x15()",
    "signature=sig_1",
    "signature.text=*fork_common",
    "file=core.svc*",
    "class=null_*",
    "severity=medium",
    "severity>low",
    "severity<=medium",
    "severity!=high | severity=*e*",
    "cause=undefined",
    "by=ann",
    "state=analysed",
    "state!=purged",
    "truncated=false",
    "hash=76998f82a450a8914037e4da838ec609",
    "name=7699*",
    "kind=core",
    "properties.triage.engineer=bmc",
    "properties.triage.level=3",
    "properties.triage.level>2.5",
    "properties.triage.level=3.0",
    "properties.triage.sure=true",
    "properties.answer=42",
    "properties.answer=\"42\"",
    "properties.triage.notes=c",
    "properties.triage.notes=a\\*b",
    "properties.triage.notes=a*",
    "properties.answer=4?",
    "properties.dotted.name.x.y=1.5",
    "properties.dotted.name.x.y<2",
    "properties.gone=undefined",
    "properties.triage!=undefined",
    "properties.nothing!=undefined",
    "properties.triage.engineer>=b",
    "platform!=x",
    "limit=3",
    "cmd=svc* | limit=3",
    "cmd>=svc",
    "cmd<svd",
];
const NOT_MEANT: &[&str] = &[
    "76998f83",
    "cmd=svc",
    "cmd=SVC.STARTD",
    "type=crash",
    "cmd!=svc*",
    "ticket=x",
    "ticket!=undefined",
    "otime=6h",
    "mtime=4h",
    "time>2017-11-17",
    "time=2017-11-16",
    "time=2017-11-17T19:34:28",
    "platform=*",
    "stack=utmpx_postfork",
    "stack!=*main*",
    "cmd=java | OR | cmd=bash",
    "type=core | NOT | cmd=svc*",
    "properties.triage.level=\"3\"",
    "properties.answer>41",
    "properties.triage=undefined",
    "properties.triage=bmc",
    "properties.gone=*",
    "properties.gone<3",
    "properties.triage.level>3",
    "uploaded>1h",
    "truncated=true",
    "cmd=svc\\*",
    "platform>=a",
    "NOT | type=core",
    "hash=76998f82",
    "type=x* | OR | pid=1",
];

#[test]
fn words_mean_what_they_say() {
    let (dump, now) = (dump(), now());
    let check = |line: &str, expected: bool| {
        let specification = Specification::parse(&words(line)).unwrap_or_else(|error| panic!("{line}: {error:?}"));
        assert_eq!(specification.matches(&dump, now), expected, "{line}");
    };
    check(&dump.id.to_string(), true);
    check(&format!("id={}", dump.id), true);
    MEANT.iter().for_each(|line| check(line, true));
    NOT_MEANT.iter().for_each(|line| check(line, false));
}

#[test]
fn what_cannot_be_meant_is_refused_by_its_name() {
    let check = |line: &str, expected: &str| {
        let error = Specification::parse(&words(line)).expect_err(line);
        let told = format!("{} ({})", error.message, error.hint.unwrap_or_default());
        assert!(told.contains(expected), "{line}: {told}");
        assert!(told.len() < 700, "{told}");
    };
    check("frob=1", "`frob` is no property of dumps (what was noted on dumps is `properties.frob`");
    check("mtime=3x", "invalid time suffix 'x'");
    check("mtime=", "it takes an age");
    check("mtime=-3h", "it takes an age");
    check("mtime=99999999999999999999", "no age is as great");
    check("otime<3h", "`otime` takes `=` and an age");
    check("pid=java", "it takes a whole number");
    check("type=wether", "it is one of `core`");
    check("state=gone", "it is one of `received`");
    check("truncated=maybe", "`true` or `false`");
    check("stack>x", "a stack takes `=` and `!=`");
    check("cmd>x*", "a pattern takes `=` and `!=`");
    check("cmd<undefined", "`undefined` takes `=`");
    check("cmd=\"java", "the closing quote is missing");
    check("cmd=\"ja\"va", "behind the closing quote");
    check("limit=0", "does not say how many");
    check("limit>3", "does not say how many");
    check("nonsense", "`nonsense` is neither a constraint nor a dump's name");
    check("( | cmd=x", "a `(` has no `)`");
    check("cmd=x | )", "there is no `(` before `)`");
    check("cmd=x | OR", "is missing behind `OR`");
    check("OR | cmd=x", "is missing before `OR`");
    check("( | )", "is missing before `)`");
    check("cmd=x | or | cmd=y", "`OR` is written in capitals");
    check("dump=stdin | cmd=x", "\"stdin\" cannot be used with subsequent specifications");
    check(&format!("cmd={}", "*a".repeat(40)), "more than 16 stars");
    check(&["cmd=x"; 65].join("|"), "at most 64 constraints");
    check(&["cmd=x"; 257].join("|"), "at most 256 words");
    check(&format!("{} | cmd=x", ["("; 40].join("|")), "nested at most 16 deep");
    check(&format!("{} | cmd=x", ["NOT"; 40].join("|")), "nested at most 16 deep");
    check(&format!("cmd={}", "x".repeat(3000)), "more than 2048 characters");
    check("properties.=1", "is no property's name");
}

#[test]
fn a_specification_ends_where_a_property_is_named() {
    let check = |line: &str, expected: usize| assert_eq!(Specification::length(&words(line)), expected, "{line}");
    check("", 0);
    check("stack", 0);
    check("cmd=x | stack | pid", 1);
    check("cmd=x | type=core", 2);
    check("76998f82 | triage | bmc", 1);
    check("76998f82 | triage | a=b", 1);
    check("a1 | OR | b2 | triage", 3);
    check("NOT | ( | cmd=x | OR | pid=3 | ) | ticket | OS-1", 6);
    check("core.1234", 1);
    check("properties.fmri", 0);
}

#[test]
fn names_beside_words_narrow_them() {
    let of = Selection { words: vec!["dump=stdin".to_owned()], names: vec!["ab".to_owned(), "cd".to_owned()] };
    assert!(of.parse().expect("is meant").condition.is_named());
    assert!(Selection { names: Vec::new(), ..of.clone() }.parse().is_err());
    assert!(Selection { names: vec!["nothing".to_owned()], ..of }.parse().is_err());
    let behind = DumpCursor::behind(&dump());
    assert_eq!(behind.to_string().parse(), Ok(behind));
    assert!("7".parse::<DumpCursor>().is_err());
}

/// Fits a text to a pattern as slowly as it is simple.
fn fits_slowly(pieces: &[Piece], text: &[char]) -> bool {
    match (pieces.split_first(), text.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((Piece::Many, later)), _) => (0..=text.len()).any(|at| fits_slowly(later, &text[at..])),
        (Some(_), None) => false,
        (Some((Piece::One, later)), Some((_, rest))) => fits_slowly(later, rest),
        (Some((Piece::Char(one), later)), Some((first, rest))) => one == first && fits_slowly(later, rest),
    }
}

proptest! {
    #[test]
    fn no_words_do_harm(
        words in proptest::collection::vec(prop_oneof![
            "[ -~]{0,12}", "\\PC{0,8}", Just("OR".to_owned()), Just("NOT".to_owned()), Just("(".to_owned()), Just(")".to_owned()),
            "(cmd|time|pid|type|properties.a|stack)(=|!=|<|>=)[a-z0-9*?\"\\\\-]{0,6}",
        ], 0..12),
    ) {
        let length = Specification::length(&words);
        prop_assert!(length <= words.len());
        if let Ok(specification) = Specification::parse(&words) {
            let _ = specification.matches(&dump(), now());
        }
    }

    #[test]
    fn quoted_a_text_means_itself(text in "\\PC{0,40}", other in "\\PC{0,40}") {
        prop_assume!(!text.contains('\0'));
        let specification = Specification::parse(&[format!("cmd={}", quoted(&text))]).expect("is meant");
        for cmd in [&text, &other] {
            let dump = Dump { facts: DumpFacts { cmd: Some(cmd.clone()), ..DumpFacts::default() }, ..dump() };
            prop_assert_eq!(specification.matches(&dump, now()), *cmd == text);
        }
    }

    #[test]
    fn patterns_fit_as_they_should(pattern in "[ab*?]{0,10}", text in "[ab\n]{0,10}") {
        let pieces: Vec<_> = pattern.chars().map(|one| match one {
            '*' => Piece::Many,
            '?' => Piece::One,
            one => Piece::Char(one),
        }).collect();
        let slowly = fits_slowly(&pieces, &text.chars().collect::<Vec<_>>());
        let glob = Glob::new(pieces).expect("has few stars");
        prop_assert_eq!(glob.fits(&text), slowly);
        prop_assert!(!slowly || text.starts_with(&glob.prefix()));
    }
}
