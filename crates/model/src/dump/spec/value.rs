//! What stands behind an operator, read as its field wants it.

use super::field::kind_type;
use super::glob::{Glob, Piece};
use super::{Comparison, Condition, DumpName, Field, Term, Test, excerpt, moment, refuse};
use crate::dump::known::FOLDER;
use crate::dump::{Dump, DumpState};
use crate::error::ApiError;
use crate::report::{DumpKind, Severity};

/// The least whole number that stands for another one too where it is a floating one.
const INEXACT: u128 = 1 << 53;

/// A value as it is written.
enum Written {
    /// `undefined`.
    Undefined,
    /// In quotes: a text and nothing else.
    Quoted(String),
    /// Without quotes and stars.
    Plain(String),
    /// With stars or question marks.
    Glob(Glob),
}

const KINDS: [DumpKind; 7] = [
    DumpKind::Core,
    DumpKind::Minidump,
    DumpKind::Kernel,
    DumpKind::Illumos,
    DumpKind::Sanitizer,
    DumpKind::Traceback,
    DumpKind::Unknown,
];

/// Returns what a constraint asks.
pub(super) fn constraint(term: Term<'_>) -> Result<Condition, ApiError> {
    let whole = || excerpt(&format!("{}{}{}", term.name, term.operator, term.value));
    let comparison = match term.operator {
        "=" | "!=" => Comparison::Equal,
        "<" => Comparison::Less,
        "<=" => Comparison::AtMost,
        ">" => Comparison::Greater,
        _ => Comparison::AtLeast,
    };
    if term.name == "limit" {
        return Err(refuse(format!("`{}` does not say how many", whole())).with_hint("`limit=5`"));
    }
    if term.value.contains('\0') {
        return Err(refuse(format!("`{}` holds a character that no text may hold", whole().replace('\0', "␀"))));
    }
    let field: Field = term.name.parse()?;
    let wrong = |why: String| refuse(format!("`{}`: {why}", whole()));
    let condition = match written(term.value).map_err(&wrong)? {
        Written::Undefined if comparison == Comparison::Equal => Condition::Field(field, Test::Undefined),
        _ if field == Field::Time && term.name == "otime" => {
            if term.operator != "=" {
                return Err(wrong("`otime` takes `=` and an age".to_owned()));
            }
            instants(&field, moment::older(term.value).map_err(wrong)?)
        }
        written => read(&field, comparison, written, term.value).map_err(wrong)?,
    };
    // What `=` is not: dumps that have no such field are among it.
    Ok(if term.operator == "!=" { Condition::Not(Box::new(condition)) } else { condition })
}

fn instants(field: &Field, tests: moment::Tests) -> Condition {
    let mut tests: Vec<_> = tests
        .into_iter()
        .map(|(comparison, moment)| Condition::Field(field.clone(), Test::Time(comparison, moment)))
        .collect();
    if tests.len() == 1 { tests.remove(0) } else { Condition::All(tests) }
}

fn read(field: &Field, comparison: Comparison, written: Written, raw: &str) -> Result<Condition, String> {
    let one = |test| Ok(Condition::Field(field.clone(), test));
    let only_equal = |what: &str| match comparison {
        Comparison::Equal => Ok(()),
        _ => Err(format!("{what} takes `=` and `!=`")),
    };
    match field {
        Field::Time | Field::Uploaded => Ok(instants(field, moment::tests(comparison, raw)?)),
        Field::Type | Field::Kind => {
            only_equal("it")?;
            let word = |kind| if *field == Field::Type { kind_type(kind).to_owned() } else { serde_word(kind) };
            one(Test::Kinds(of_words(KINDS, word, &written)?))
        }
        Field::State => {
            only_equal("it")?;
            one(Test::States(of_words(DumpState::ALL, |state| state.as_str().to_owned(), &written)?))
        }
        Field::Severity if comparison == Comparison::Equal => {
            one(Test::Severities(of_words(Severity::ALL, serde_word, &written)?))
        }
        Field::Severity => match of_words(Severity::ALL, serde_word, &written)?.as_slice() {
            [than] if !matches!(written, Written::Glob(_)) => {
                let passes = |one: &Severity| comparison.passes(one.cmp(than));
                one(Test::Severities(Severity::ALL.into_iter().filter(passes).collect()))
            }
            _ => Err("a pattern takes `=` and `!=`".to_owned()),
        },
        Field::Truncated => {
            only_equal("it")?;
            match raw {
                "true" => one(Test::Truth(true)),
                "false" => one(Test::Truth(false)),
                _ => Err("it is `true` or `false`".to_owned()),
            }
        }
        // The number as it is written.
        Field::Pid | Field::Size if matches!(written, Written::Glob(_)) => text(field, comparison, written),
        Field::Pid | Field::Size => {
            let number = raw.parse().map_err(|_| "it takes a whole number".to_owned())?;
            one(Test::Number(comparison, number))
        }
        Field::Hash => match written {
            Written::Plain(text) if comparison == Comparison::Equal => {
                let name = text.strip_prefix(FOLDER).unwrap_or(&text);
                match name.parse() {
                    Ok(id) => Ok(Condition::Named(vec![DumpName::Id(id)])),
                    Err(_) => one(Test::Text(comparison, name.to_owned())),
                }
            }
            written => text(field, comparison, written),
        },
        Field::File => match &written {
            // A file's path, as Thoth knew it, names the dump that it is in.
            Written::Plain(path)
                if comparison == Comparison::Equal
                    && let Some((hash, name)) = path.strip_prefix(FOLDER).and_then(|path| path.split_once('/')) =>
            {
                let equals = |field, text: &str| Condition::Field(field, Test::Text(comparison, text.to_owned()));
                Ok(Condition::All(vec![equals(Field::Hash, hash), equals(Field::File, name)]))
            }
            _ => text(field, comparison, written),
        },
        Field::Property(_) => property(field, comparison, written),
        Field::Stack => {
            only_equal("a stack")?;
            text(field, comparison, written)
        }
        _ => text(field, comparison, written),
    }
}

fn text(field: &Field, comparison: Comparison, written: Written) -> Result<Condition, String> {
    let test = match written {
        Written::Glob(glob) if comparison == Comparison::Equal => Test::Fits(glob),
        Written::Glob(_) => return Err("a pattern takes `=` and `!=`".to_owned()),
        Written::Undefined => return Err("`undefined` takes `=` and `!=`".to_owned()),
        Written::Quoted(text) | Written::Plain(text) => Test::Text(comparison, text),
    };
    Ok(Condition::Field(field.clone(), test))
}

fn property(field: &Field, comparison: Comparison, written: Written) -> Result<Condition, String> {
    let one = |test| Condition::Field(field.clone(), test);
    let number = |text: &str| text.parse().ok().filter(|number: &f64| number.is_finite());
    Ok(match written {
        Written::Quoted(text) => one(Test::Quoted(comparison, text)),
        Written::Plain(text) => match (number(&text), comparison) {
            // What counts less finely than this is not the same because it is near.
            (Some(_), Comparison::Equal) if let Some(long) = long(&text) => one(Test::Text(comparison, long)),
            // Nobody who writes a number says whether it was noted as one.
            (Some(number), Comparison::Equal) => {
                Condition::Any(vec![one(Test::Amount(comparison, number)), one(Test::Text(comparison, text))])
            }
            (Some(number), _) => one(Test::Amount(comparison, number)),
            (None, Comparison::Equal) => one(Test::Text(comparison, text)),
            (None, _) => one(Test::Quoted(comparison, text)),
        },
        written => return text(field, comparison, written),
    })
}

/// Returns a whole number of which a floating one does not have every digit, if a text is one.
fn long(text: &str) -> Option<String> {
    let number: i128 = text.parse().ok()?;
    (number.unsigned_abs() >= INEXACT).then(|| number.to_string())
}

fn of_words<T: Copy, const N: usize>(
    all: [T; N],
    word: impl Fn(T) -> String,
    written: &Written,
) -> Result<Vec<T>, String> {
    let fits = |one: &T| match written {
        Written::Glob(glob) => glob.fits(&word(*one)),
        Written::Quoted(text) | Written::Plain(text) => word(*one) == *text,
        Written::Undefined => false,
    };
    let found: Vec<_> = all.iter().copied().filter(fits).collect();
    if !found.is_empty() || matches!(written, Written::Glob(_)) {
        return Ok(found);
    }
    let mut words: Vec<_> = all.iter().map(|one| format!("`{}`", word(*one))).collect();
    words.dedup();
    Err(format!("it is one of {}", words.join(", ")))
}

/// Returns the word that stands for a kind or the like.
fn serde_word<T: serde::Serialize>(one: T) -> String {
    serde_json::to_value(one).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn written(text: &str) -> Result<Written, String> {
    if text == "undefined" {
        return Ok(Written::Undefined);
    }
    if let Some(rest) = text.strip_prefix('"') {
        return inside_quotes(rest).map(Written::Quoted);
    }
    let (mut pieces, mut chars, mut is_glob) = (Vec::new(), text.chars().peekable(), false);
    while let Some(one) = chars.next() {
        pieces.push(match one {
            '\\' => Piece::Char(chars.next_if(|next| matches!(next, '*' | '?' | '\\' | '"')).unwrap_or('\\')),
            '*' | '?' => {
                is_glob = true;
                if one == '*' { Piece::Many } else { Piece::One }
            }
            one => Piece::Char(one),
        });
    }
    if is_glob {
        return Glob::new(pieces).map(Written::Glob).map_err(|error| error.message);
    }
    let chars = pieces.iter().filter_map(|piece| if let Piece::Char(one) = piece { Some(*one) } else { None });
    Ok(Written::Plain(chars.collect()))
}

fn inside_quotes(text: &str) -> Result<String, String> {
    let (mut found, mut chars) = (String::new(), text.chars());
    while let Some(one) = chars.next() {
        match one {
            '"' if chars.as_str().is_empty() => return Ok(found),
            '"' => return Err("something stands behind the closing quote".to_owned()),
            '\\' => found.extend(chars.next()),
            one => found.push(one),
        }
    }
    Err("the closing quote is missing".to_owned())
}

impl Dump {
    /// Returns the word that Thoth has for what sort of thing it is.
    pub const fn type_word(&self) -> &'static str {
        kind_type(self.kind)
    }
}
